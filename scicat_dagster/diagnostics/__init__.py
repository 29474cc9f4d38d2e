"""Checking a facility, before anything is run with it (validate) and while it runs (health)."""
