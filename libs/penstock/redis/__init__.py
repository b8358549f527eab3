"""Everything that knows how to talk to a Redis server."""
