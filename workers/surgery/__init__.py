"""What changes a network's structure: counting its layers, cutting channels, factoring weights, zeroing them."""
