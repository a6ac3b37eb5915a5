"""Searching a recipe: which trials come next, which of them end early, and which keys mattered."""
