"""Markdown tables on standard output."""

from collections.abc import Sequence


def print_head(columns: Sequence[str]) -> None:
    """The two lines that begin a table; rows follow one by one, as they come."""
    print("| " + " | ".join(columns) + " |")
    print("| " + " | ".join("---" for _ in columns) + " |", flush=True)
