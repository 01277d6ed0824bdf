"""What a report consists of, before anybody says how it looks: `html.py` and `markdown.py` write the same blocks.

Text that comes from uploads is shown as `Code` wherever it is a name; every writer escapes everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Tone = Literal["plain", "good", "bad", "warn"]


@dataclass(frozen=True)
class Code:
    """A name, a command, a value: as it is, in a fixed width."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Words that matter more than the others."""

    text: str


Text = Sequence[str | Code | Strong]


@dataclass(frozen=True)
class Paragraph:
    """A few sentences."""

    text: Text
    tone: Tone = "plain"


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: Sequence[Text]
    tone: Tone = "plain"


@dataclass(frozen=True)
class Cell:
    """One cell of a table; `detail` is an interval or a remark beside its text, `value` what it is sorted by."""

    text: Text | str
    detail: str | None = None
    value: float | None = None
    tone: Tone = "plain"


@dataclass(frozen=True)
class Column:
    """A column's heading."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its heading. Markdown shows at most `brief` rows, where that is given."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False
    brief: int | None = None


@dataclass(frozen=True)
class Chart:
    """A drawing: a specification of Vega-Lite, and the same in words. Its numbers stand in a table too, or in the text."""

    title: str
    words: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Listing:
    """Text to be copied: a command, a recipe."""

    caption: str
    text: str
    language: Literal["sh", "json", "text"] = "text"


@dataclass(frozen=True)
class Folded:
    """What most readers can do without, until they open it."""

    summary: str
    blocks: Sequence["Block"]


Block = Paragraph | Bullets | Table | Chart | Listing | Folded


@dataclass(frozen=True)
class Section:
    """A part of a report, under a heading. Markdown folds one that is not `first`: a pull request has little room."""

    id: str
    title: str
    blocks: Sequence[Block]
    first: bool = True


@dataclass(frozen=True)
class Tile:
    """A number that everybody looks for."""

    label: str
    value: str
    detail: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True)
class Headline:
    """What a report says, in a sentence and a few numbers."""

    title: str
    sentence: Text
    tone: Tone = "plain"
    tiles: Sequence[Tile] = field(default_factory=tuple)
