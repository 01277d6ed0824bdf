"""Burnish, the hands: claims jobs and does them, each attempt in a child process of its own."""
