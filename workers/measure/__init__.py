"""Latency, memory, fidelity, accuracy. Knows no runtime's name."""
