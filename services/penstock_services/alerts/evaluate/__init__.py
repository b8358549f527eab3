"""The kinds of rules: each module judges one."""
