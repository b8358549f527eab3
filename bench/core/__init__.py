"""The core beside raw loops on redis-py: `python -m bench.core`."""
