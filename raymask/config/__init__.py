"""What a run is: its schema, and the way from recipe names, YAML files and `key.path=value` settings to it."""
