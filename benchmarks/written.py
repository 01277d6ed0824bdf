"""Figures inside pages that people write: what a benchmark brought stands between two marks of its name."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def write(page: Path, name: str, text: str) -> None:
    """Put a text between the marks `<!-- NAME -->` and `<!-- /NAME -->` of a page, in place of what stands there.

    Raises:
        ValueError: the page does not have both marks once.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    content = page.read_text(encoding="utf-8")
    if content.count(first) != 1 or content.count(last) != 1 or content.index(last) < content.index(first):
        raise ValueError(f"{page.name} has no place for the figures of {name}: {first} and {last}")
    before, _, rest = content.partition(first)
    page.write_text(f"{before}{first}\n{text}\n{last}{rest.partition(last)[2]}", encoding="utf-8")
