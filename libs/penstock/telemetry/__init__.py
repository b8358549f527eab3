"""What a person or a tool sees of a running service: logs, and what is in flight."""
