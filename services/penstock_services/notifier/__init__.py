"""The notifier: takes alerts to people, one delivery for each alert and channel."""
