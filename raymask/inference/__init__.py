"""Prediction by finished models: in one process, and by actors over any number of images."""
