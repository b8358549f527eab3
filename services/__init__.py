"""The services that ship with Penstock; each runs as `python -m services.NAME`."""
