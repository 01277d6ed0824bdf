"""`python -m demo`: the whole way with a real model, from training to an engine that runs without Burnish."""
