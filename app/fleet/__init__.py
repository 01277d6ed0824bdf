"""What workers say of themselves."""
