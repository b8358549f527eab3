"""The spool: accepted events on local disk while Redis is away, until each has been published once."""
