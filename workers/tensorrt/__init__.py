"""TensorRT and TensorRT for RTX: one implementation of two libraries that have one API."""
