"""Uploaded samples: calibration, evaluation and training data."""
