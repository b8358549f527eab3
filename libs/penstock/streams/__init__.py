"""Publishing, reading and settling: the path of an event through Redis Streams."""
