"""The run directory: its paths, its files and their formats."""
