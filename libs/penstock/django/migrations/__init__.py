"""How the table of the outbox came to be."""
