"""What every package builds on: errors, tasks and their labels, types, the console."""
