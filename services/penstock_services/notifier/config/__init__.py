"""notify.yaml and the environment: which channels there are and what goes where."""
