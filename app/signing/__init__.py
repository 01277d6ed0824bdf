"""Who made a bundle: Ed25519 signatures over manifests, and the keys that make them."""
