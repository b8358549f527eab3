"""The containers service: keeps containers of a Docker engine as they are declared, and tells every change."""
