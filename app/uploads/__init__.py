"""Resumable uploads: a file that arrives over several requests."""
