"""Files and tables, local and by URL: read as what may be damaged, written whole or not at all, and told apart by content."""
