"""The alert manager: evaluates roll-ups and events by alerts.yaml and says what is wrong, once, and when it is over."""
