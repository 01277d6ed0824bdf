"""What only workers import that have TensorFlow: the `tensorflow` extra."""
