"""The embedded demo data set."""
