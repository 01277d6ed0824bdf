"""Training over several nodes: where their processes meet, and what carries them there."""
