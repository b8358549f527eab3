"""The metrics service: counts every event exactly once, closes windows, looks after the mesh itself."""
