"""The vote: calibration, rules, thresholds and their selection on out-of-fold predictions. Pure functions on arrays."""
