"""What maintainers run: locks, references, pictures."""
