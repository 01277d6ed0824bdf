"""The engine bundle: what a user downloads, deploys and can check without Burnish."""
