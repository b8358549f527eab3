"""`penstock demo`: what the mesh promises, shown on a mesh that runs."""
