"""One alert on its way to one channel, until it is delivered or given up."""
