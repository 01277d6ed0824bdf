"""What the service says of itself: health and metrics."""
