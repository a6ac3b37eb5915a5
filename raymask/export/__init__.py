"""A finished run as files that need no raymask."""
