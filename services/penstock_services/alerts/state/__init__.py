"""What is remembered of an alert between two evaluations."""
