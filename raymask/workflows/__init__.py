"""One module a command: what it reads, does and writes, from top to bottom."""
