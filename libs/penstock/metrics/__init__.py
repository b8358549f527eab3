"""What is measured: sketches, tallies, windows, and where they lie in Redis.

The metrics service writes this state; the command line reads it too.
"""
