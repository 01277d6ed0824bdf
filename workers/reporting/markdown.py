"""A report as Markdown (GitHub's flavour): for a pull request, an issue, a terminal. Charts are left to the HTML; their numbers are in the tables.

Names of strangers stand in code spans, which neither make links nor call anybody; everything else is escaped.
"""

import re
from collections.abc import Iterator, Sequence

from app.reports.schemas import Report
from app.text import plain
from workers.reporting.blocks import (
    Block,
    Bullets,
    Cell,
    Chart,
    Code,
    Folded,
    Listing,
    Paragraph,
    Table,
    Text,
)
from workers.reporting.sections import sections
from workers.reporting.sections.headline import headline
from workers.reporting.sections.remarks import remarks
from workers.reporting.words import when

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")
_RUNS = re.compile(r"`+")


def text(report: Report) -> str:
    """The whole file."""
    first = headline(report)
    lines = [f"# {inline(first.title)}", "", inline(first.sentence), ""]
    if beware := remarks(report):
        lines += _bullets(beware, "warning: ")
    for section in sections(report):
        body = [line for block in section.blocks for line in _block(block)]
        if section.first:
            lines += [f"## {section.title}", "", *body]
        else:
            lines += _folded(section.title, body)
    made = f"Job {inline([Code(report.job)])}, {when(report.created_at)}, Burnish {inline(report.versions['burnish'])}. Intervals are 95%."
    return "\n".join([*lines, made, ""])


def inline(given: Text | str) -> str:
    """Words on one line."""
    if isinstance(given, str):
        return _escaped(given)
    return "".join(
        _escaped(one)
        if isinstance(one, str)
        else _code(one.text)
        if isinstance(one, Code)
        else f"**{_escaped(one.text)}**"
        for one in given
    )


def _block(block: Block) -> list[str]:
    match block:
        case Paragraph():
            return [inline(block.text), ""]
        case Bullets():
            return _bullets(block)
        case Table():
            return [*_table(block), ""]
        case Listing():
            return [*_fenced(block.text, block.language), ""]
        case Folded():
            return _folded(inline(block.summary), [line for one in block.blocks for line in _block(one)])
        case Chart():
            return []


def _bullets(block: Bullets, before: str = "") -> list[str]:
    return [*(f"- {before}{inline(item)}" for item in block.items), ""]


def _table(table: Table) -> Iterator[str]:
    """The caption below: a table of Markdown has none."""
    shown = table.rows[: table.brief]
    yield "| " + " | ".join(inline(column.title) for column in table.columns) + " |"
    yield "| " + " | ".join("---:" if column.numeric else "---" for column in table.columns) + " |"
    for row in shown:
        yield "| " + " | ".join(_cell(cell) for cell in row) + " |"
    more = len(table.rows) - len(shown)
    left_out = f" {more} more rows are in the HTML report." if more else ""
    yield ""
    yield f"{inline(table.caption)}{left_out}"


def _cell(cell: Cell) -> str:
    detail = f" ({inline(cell.detail)})" if cell.detail else ""
    return f"{inline(cell.text)}{detail}"


def _folded(summary: str, body: Sequence[str]) -> list[str]:
    return [f"<details><summary>{summary}</summary>", "", *body, "</details>", ""]


def _fenced(content: str, language: str) -> list[str]:
    """A code block, whose fence is longer than any run of backquotes inside."""
    longest = max((len(run) for run in _RUNS.findall(content)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = [plain(line, most=10_000) for line in content.rstrip("\n").split("\n")]
    return [f"{fence}{'' if language == 'text' else language}", *lines, fence]


def _escaped(given: str) -> str:
    return _SPECIAL.sub(r"\\\1", _line(given)).replace("&", "&amp;")


def _code(given: str) -> str:
    """A code span (CommonMark 6.1) that holds backquotes too, and the bar that would end a table's cell."""
    content = _line(given).replace("|", r"\|")
    longest = max((len(run) for run in _RUNS.findall(content)), default=0)
    fence = "`" * (longest + 1)
    room = " " if content.startswith("`") or content.endswith("`") else ""
    return f"{fence}{room}{content}{room}{fence}" if content else ""


def _line(given: str) -> str:
    return " ".join(plain(given).split("\n"))
