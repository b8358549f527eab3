"""HTTP as every service serves it."""
