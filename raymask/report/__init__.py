"""A finished run as a page and as tables."""
