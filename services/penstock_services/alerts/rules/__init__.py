"""alerts.yaml: what a rule is, and what is wrong with one."""
