"""The Ray that a run works on: connection, session, resources, capacity."""
