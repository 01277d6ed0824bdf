"""Keys and projects: who calls, and what belongs to whom."""
