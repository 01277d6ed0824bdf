"""Compute capabilities of NVIDIA GPUs: a whole number where people choose one (89), with a point where a driver tells it (`8.9`)."""


def number_of(told: str) -> int:
    """89 of `8.9`."""
    return int(told.replace(".", ""))


def dotted(number: int) -> str:
    """`8.9` of 89."""
    return f"{number // 10}.{number % 10}"
