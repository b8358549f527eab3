"""Buttons under alerts: hearing who pressed them, and what follows."""
