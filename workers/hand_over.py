"""What ends an attempt whose worker has built all that there is to build, and cannot run it."""


class HandOver(Exception):
    """Another worker goes on, from the stored steps. Its text says why this one cannot."""
