"""The memory backend: a whole mesh inside one process, without Redis, for development and tests."""
