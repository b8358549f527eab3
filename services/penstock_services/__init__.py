"""The services that ship with Penstock; each runs as `python -m penstock_services.NAME`."""
