"""Penstock beside its neighbours: `python -m bench.peers`."""
