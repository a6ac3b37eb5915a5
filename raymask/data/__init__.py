"""From a user's folders and tables to batches of pixels."""
