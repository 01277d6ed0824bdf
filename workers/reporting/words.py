"""Numbers in words, beyond those of `workers/bundle/text.py`."""

from collections.abc import Mapping, Sequence
from typing import Any

from workers.bundle.text import bytes_text, ms_text
from workers.reporting.blocks import Cell, Code, Column, Text, Tone

NOTHING = "–"
VERDICTS = {
    "faster": "faster",
    "slower": "slower",
    "no_difference": "no difference",
    "unstable": "no verdict",
}
TONES: dict[str, Tone] = {"faster": "good", "slower": "bad", "no_difference": "plain", "unstable": "warn"}
UNITS = ("", " k", " M", " G", " T", " P")


def between(value: Mapping[str, Any], unit: str = "", digits: int = 4) -> str | None:
    """An interval; None where there is none."""
    low, high = value.get("low"), value.get("high")
    return None if low is None or high is None else f"{low:.{digits}g} to {high:.{digits}g}{unit}"


def change(before: float | None, after: float | None) -> str:
    """By how much something grew or fell."""
    if before is None or after is None or not before:
        return NOTHING
    percent = 100 * (after / before - 1)
    if abs(percent) < 0.05:
        return "0%"
    return (
        f"{'+' if percent > 0 else '−'}{abs(percent):.3g}%"
        if abs(percent) < 1000
        else f"{after / before:.3g}×"
    )


def amount(value: float, unit: str = "") -> str:
    """A large number with its prefix: `1.23 G`."""
    for prefix in UNITS:
        if abs(value) < 1000 or prefix == UNITS[-1]:
            return f"{value:.3g}{prefix}{unit}"
        value /= 1000
    raise AssertionError("the last unit returns")


def seconds_text(value: float) -> str:
    """A duration."""
    if value < 120:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def when(time: str) -> str:
    """A time (RFC 3339, UTC) to the minute."""
    return f"{time[:16].replace('T', ' ')} UTC"


def number(value: float | None, text: str | None = None, detail: str | None = None) -> Cell:
    """A cell that is sorted by its number."""
    return Cell(NOTHING) if value is None else Cell(text or f"{value:.4g}", detail, float(value))


def ms_cell(value: float | None, detail: str | None = None) -> Cell:
    """Milliseconds."""
    return number(value, None if value is None else ms_text(value), detail)


def bytes_cell(value: float | None, detail: str | None = None) -> Cell:
    """Bytes."""
    return number(value, None if value is None else bytes_text(value), detail)


def words(text: str) -> Text:
    """A sentence in which every second piece between backquotes is code, as `why` and `told` write names."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a backquote without its partner: it is text
        return [text]
    return [Code(piece) if place % 2 else piece for place, piece in enumerate(pieces) if piece]


def told(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> tuple[list[Column], list[list[Cell]]]:
    """Columns and rows of a table, without the columns that say nothing in any row."""
    kept = [
        place
        for place in range(len(columns))
        if place == 0 or any(row[place].text != NOTHING for row in rows)
    ]
    return [columns[place] for place in kept], [[row[place] for place in kept] for row in rows]
