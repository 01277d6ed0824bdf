"""What surgery changed in the network."""

from collections.abc import Sequence
from typing import Any

from app.reports.schemas import LayerChange, Pair, Report, Surgery
from workers.bundle.text import bytes_text
from workers.reporting.blocks import Block, Bullets, Cell, Chart, Code, Column, Folded, Section, Table
from workers.reporting.charts import ROW_HEIGHT, chart
from workers.reporting.words import NOTHING, amount, change, number, told

DRAWN = 20  # layers in the chart
BRIEF = 15


def structure(report: Report) -> Section | None:
    """Layers before and after, where a pass changed what the network is made of."""
    blocks = [block for one in report.surgery for block in _step(one)]
    return Section("structure", "Structure", blocks) if blocks else None


def _step(one: Surgery) -> list[Block]:
    totals = [
        [f"{label}: {text(pair[0])} → {text(pair[1])} ({change(*pair)})"]
        for label, pair, text in (
            ("parameters", one.parameters, amount),
            ("operations", one.flops, lambda value: amount(value, "FLOP")),
            ("size of the weights", one.size_bytes, bytes_text),
        )
        if pair is not None
    ]
    changed = [layer for layer in one.layers if _changed(layer)]
    blocks: list[Block] = [Bullets([[Code(one.step)], *totals])]
    if drawn := [layer for layer in changed if layer.flops is not None]:
        drawn = sorted(drawn, key=lambda layer: -_first(layer.flops))[:DRAWN]
        words = f"Operations of the {len(drawn)} largest layers that changed, before and after."
        blocks.append(Chart("Operations by layer", words, _chart(drawn)))
    if changed:
        blocks.append(_table(changed, len(one.layers) - len(changed)))
    if one.left_out:
        places = Bullets([[text] for text in one.left_out])
        blocks.append(Folded(f"{len(one.left_out)} places left as they are", [places]))
    return blocks


def _changed(layer: LayerChange) -> bool:
    pairs = (layer.parameters, layer.flops, layer.channels)
    return any(pair is not None and pair[0] != pair[1] for pair in pairs) or bool(layer.zeros)


def _table(layers: Sequence[LayerChange], others: int) -> Table:
    """A row a layer; columns that none has are left out."""
    titles = ("channels", "parameters", "FLOP", "error", "zeros")
    columns, rows = told(
        [Column("layer"), *(Column(title, numeric=True) for title in titles)],
        [
            [
                Cell([Code(layer.name)], layer.kind),
                *map(_pair, (layer.channels, layer.parameters, layer.flops)),
                _error(layer.error),
                _zeros(layer),
            ]
            for layer in layers
        ],
    )
    same = f" {others} others are as they were." if others else ""
    return Table(f"Layers before and after.{same}", columns, rows, sortable=True, brief=BRIEF)


def _pair(pair: Pair | None) -> Cell:
    if pair is None:
        return Cell(NOTHING)
    return Cell(f"{amount(pair[0])} → {amount(pair[1])}", change(*pair), float(pair[1]))


def _error(value: float | None) -> Cell:
    return number(value, None if value is None else f"{value:.1%}")


def _zeros(layer: LayerChange) -> Cell:
    if layer.weights is None or layer.zeros is None:
        return Cell(NOTHING)
    share = layer.zeros / max(layer.weights, 1)
    return Cell(f"{share:.1%}", f"of {layer.weights:,}", share)


def _first(pair: Pair | None) -> int:
    return 0 if pair is None else pair[0]


def _chart(layers: Sequence[LayerChange]) -> dict[str, Any]:
    rows = [
        {"name": layer.name, "when": when, "flops": layer.flops[place], "order": place}
        for layer in layers
        if layer.flops is not None
        for place, when in enumerate(("before", "after"))
    ]
    return chart(
        rows,
        height=ROW_HEIGHT * len(layers),
        mark={"type": "bar", "cornerRadiusEnd": 2},
        encoding={
            "y": {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": {"ticks": False}},
            "yOffset": {"field": "when", "type": "nominal", "sort": None},
            "x": {
                "field": "flops",
                "type": "quantitative",
                "title": "FLOP",
                "axis": {"format": "~s", "tickCount": 5},
            },
            "color": {
                "field": "when",
                "type": "nominal",
                "scale": {"domain": ["before", "after"], "range": ["var(--baseline)", "var(--optimized)"]},
            },
            "tooltip": [
                {"field": "name", "title": " "},
                {"field": "when", "title": "when"},
                {"field": "flops", "format": ".4~s", "title": "FLOP"},
            ],
        },
    )
