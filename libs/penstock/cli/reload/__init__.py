"""`--reload`: whether changed sources would run, and when they change."""
