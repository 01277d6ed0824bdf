"""Opaque ids with a prefix that tells what they name."""

import secrets

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no letters that read like digits


def new_id(prefix: str) -> str:
    """A fresh id such as `job_3f9…`: 100 random bits after the prefix."""
    return prefix + "_" + "".join(secrets.choice(_ALPHABET) for _ in range(20))
