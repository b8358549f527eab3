"""`penstock up`: Redis and every service of streams.yaml under one supervisor."""
