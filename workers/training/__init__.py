"""Training inside a recipe: data, loop, losses, checkpoints, several processes."""
