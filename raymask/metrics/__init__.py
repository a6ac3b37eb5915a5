"""Scores of predictions, how sure they are, and how well probabilities are calibrated. Pure functions on arrays."""
