"""The way into a mesh from any program: publish events, submit jobs, learn what becomes of them."""
