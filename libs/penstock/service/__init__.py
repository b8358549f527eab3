"""Writing and running a service."""
