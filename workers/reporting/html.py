"""A report as one HTML file: style, script and the charts' library are inside, and nothing may be fetched.

The content security policy of the page allows the two scripts and the style by their hashes, and nothing else: neither what a
hostile name would smuggle in nor a request. The charts' expressions are therefore interpreted (`ast`), never evaluated as code.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from app.reports.schemas import Report
from app.text import plain
from workers.reporting.blocks import Block, Chart, Code, Folded, Strong, Text
from workers.reporting.charts import CONFIG
from workers.reporting.sections import sections
from workers.reporting.sections.headline import headline
from workers.reporting.sections.remarks import remarks
from workers.reporting.words import when

ASSETS = Path(__file__).parent / "assets"
LONG = 32  # letters of code that may be broken in a table


def page(report: Report) -> str:
    """The whole file."""
    found = sections(report)
    style, script, library = (_asset(name) for name in ("report.css", "report.js", "vega.js"))
    charts = [block for section in found for block in _flat(section.blocks) if isinstance(block, Chart)]
    numbers = {id(chart): number for number, chart in enumerate(charts)}
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(library)} {_hash(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return _environment().get_template("report.html.j2").render(
        report=report,
 made=when(report.created_at),
        headline=headline(report),
        remarks=remarks(report),
        sections=found,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        library=Markup(library if charts else ""),
        charts=_data({"config": CONFIG, "charts": [_described(chart) for chart in charts]}),
        number=lambda chart: numbers[id(chart)],
    )  # fmt: skip


def _described(chart: Chart) -> dict[str, Any]:
    """A specification with the chart's words: Vega puts them where screen readers look."""
    return {**chart.spec, "description": f"{plain(chart.title)}. {plain(chart.words)}"}


def _flat(blocks: Sequence[Block]) -> list[Block]:
    return [
        one for block in blocks for one in (_flat(block.blocks) if isinstance(block, Folded) else [block])
    ]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"inline": _inline, "kind": _kind}
    return environment


@cache
def _asset(name: str) -> str:
    """A file that goes into the page as it is. It cannot end the element that it stands in."""
    text = (ASSETS / name).read_text(encoding="utf-8")
    assert "</script" not in text.lower()
    assert "</style" not in text.lower()
    return text


def _inline(text: Text | str) -> Markup:
    """Words, with code and stress; strange characters are shown as escapes."""
    if isinstance(text, str):
        return escape(plain(text))
    return Markup("").join(escape(plain(one)) if isinstance(one, str) else _marked(one) for one in text)


def _marked(one: Code | Strong) -> Markup:
    shown = plain(one.text)
    if isinstance(one, Strong):
        return Markup("<strong>{}</strong>").format(shown)
    return Markup('<code class="long">{}</code>' if len(shown) > LONG else "<code>{}</code>").format(shown)


def _kind(block: Block) -> str:
    return type(block).__name__.lower()


def _data(value: Any) -> Markup:
    """JSON inside of a `<script>` that is data: nothing in it ends the element or begins a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _hash(text: str) -> str:
    """The source expression of an inline script or style (Content Security Policy Level 3, 2.3.1)."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
