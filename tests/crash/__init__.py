"""Runs that are killed again and again, and what must stand in the tables afterwards. Run it: make crash."""
