"""Markdown tables."""

from collections.abc import Iterable, Sequence


def head(columns: Sequence[str]) -> str:
    """The two lines that begin a table."""
    return f"{row(columns)}\n{row(['---'] * len(columns))}"


def row(cells: Iterable[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cells) + " |"


def table(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A whole table."""
    return "\n".join([head(columns), *map(row, rows)])


def print_head(columns: Sequence[str]) -> None:
    """Print the two lines that begin a table; rows follow one by one, as they come."""
    print(head(columns), flush=True)
