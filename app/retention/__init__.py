"""Keeping and letting go: what is removed when, and whether everything that must be there is there."""
