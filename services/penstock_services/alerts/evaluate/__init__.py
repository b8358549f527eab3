"""The kinds of rules: each module evaluates one."""
