"""Profiles: where the time of an engine goes, why, and what would help. Nothing here gives a headline latency."""
