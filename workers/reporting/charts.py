"""The charts, as specifications of Vega-Lite (https://vega.github.io/vega-lite/docs/): data alone, drawn by `assets/vega.js`.

Colours are CSS variables of `assets/report.css`, so that a chart follows the page's theme. What tells by colour tells by shape or
place too. Fields have plain names: Vega reads dots and brackets in them.
"""

import math
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
SIDES = {
    "baseline": "original",
    "reference": "source framework",
    "optimized": "optimized",
    "engine": "engine",
}
ROW_HEIGHT = 26
LABEL_PIXELS = 150
DEEPEST = 1e6

CONFIG: Json = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **{f"{part}Color": "var(--muted)" for part in ("label", "title", "tick", "domain")},
        "gridColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": LABEL_PIXELS,
    },
    "legend": {
        "labelColor": "var(--text)",
        "titleColor": "var(--muted)",
        "labelFontSize": 12,
        "orient": "top",
        "direction": "horizontal",
        "columns": 2,
        "title": None,
        "labelLimit": 220,
    },
    "text": {"color": "var(--text)", "fontSize": 12},
    "rule": {"color": "var(--muted)"},
}


def chart(values: Sequence[Json], **spec: Any) -> Json:
    """A specification over rows, as wide as its place in the page."""
    fitted = {"type": "fit-x", "contains": "padding"}
    return {
        "$schema": SCHEMA,
        "width": "container",
        "autosize": fitted,
        "data": {"values": list(values)},
        **spec,
    }


def by_side(sides: Sequence[str]) -> Json:
    """Which colour a side has."""
    return {
        "field": "side",
        "type": "nominal",
        "scale": {"domain": [SIDES[side] for side in sides], "range": [f"var(--{side})" for side in sides]},
    }


def shape_by_side(sides: Sequence[str]) -> Json:
    """Which shape a side's points have."""
    names = [SIDES[side] for side in sides]
    shapes = ["circle", "square", "triangle-up"][: len(names)]
    return {"field": "side", "type": "nominal", "scale": {"domain": names, "range": shapes}}


def intervals(rows: Sequence[Json], axis: str, *, marks: Sequence[Json] = (), log: bool = False) -> Json:
    """Estimates with their intervals, a row each: `name`, `value`, `low`, `high`, `kind` (a colour's CSS variable).

    `marks` are lines across all rows: `at`, `what`.
    """
    held = [row["low"] for row in rows] + [row["high"] for row in rows] + [mark["at"] for mark in marks]
    low, high = min(held), max(held)
    room = 0.08 * (high - low or abs(high) or 1.0)
    domain = decades(low, high) if log else [low - room, high + room]
    names = [row["name"] for row in rows]
    y = {
        "field": "name",
        "type": "nominal",
        "sort": names,
        "title": None,
        "axis": {"ticks": False, "domain": False},
    }
    x = {
        "field": "value",
        "type": "quantitative",
        "title": axis,
        "scale": {"domain": domain, "nice": False, **({"type": "log"} if log else {"zero": False})},
        "axis": {"tickCount": 6, **({"format": "~g"} if log else {})},
    }
    colour = {"field": "kind", "type": "nominal", "scale": None, "legend": None}
    tooltip = [
        {"field": "name", "title": " "},
        *({"field": key, "format": ".4~g", "title": key} for key in ("value", "low", "high")),
    ]
    shared = {"y": y, "color": colour, "tooltip": tooltip}
    layers: list[Json] = [
        {
            "data": {"values": list(marks)},
            "mark": {"type": "rule", "strokeDash": [4, 3]},
            "encoding": {"x": {"field": "at", "type": "quantitative"}, "tooltip": {"field": "what"}},
        }
    ] * bool(marks)
    layers += [
        {
            "mark": {"type": "rule", "strokeWidth": 4, "strokeCap": "round", "opacity": 0.55},
            "encoding": {**shared, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1},
            "encoding": {**shared, "x": x},
        },
    ]
    return chart(rows, height=(ROW_HEIGHT + 6) * len(rows), layer=layers)


def bars(
    rows: Sequence[Json], axis: str, *, more: Sequence[Json] = (), floor: bool = False, ticks: str = "~g"
) -> Json:
    """Horizontal bars in the order given: `name`, `value`, `kind` (a CSS variable), what `more` tooltips tell.

    `ticks` is the axis's number format (https://d3js.org/d3-format). With `floor` each has a tick at the row's `floor`, where it has one.
    """
    y = {
        "field": "name",
        "type": "nominal",
        "sort": [row["name"] for row in rows],
        "title": None,
        "axis": {"ticks": False, "domain": False},
    }
    x = {"field": "value", "type": "quantitative", "title": axis, "axis": {"tickCount": 5, "format": ticks}}
    tooltip = [{"field": "name", "title": " "}, {"field": "value", "format": ".4~g", "title": axis}, *more]
    layers: list[Json] = [
        {
            "mark": {"type": "bar", "cornerRadiusEnd": 2, "height": {"band": 0.72}},
            "encoding": {
                "y": y,
                "x": x,
                "color": {"field": "kind", "type": "nominal", "scale": None, "legend": None},
                "tooltip": tooltip,
            },
        }
    ]
    if floor:
        layers.append(
            {
                "transform": [{"filter": "isValid(datum.floor)"}],
                "mark": {"type": "tick", "color": "var(--text)", "thickness": 2, "height": 16},
                "encoding": {"y": y, "x": {"field": "floor", "type": "quantitative"}, "tooltip": tooltip},
            }
        )
    return chart(rows, height=ROW_HEIGHT * len(rows), layer=layers)


def decades(low: float, high: float) -> list[float]:
    """A domain of a logarithmic axis that holds both, with some room; of what is not above zero, six decades."""
    low = low if low > 0 else high / DEEPEST
    room = 10 ** (0.08 * max(math.log10(high / low), 0.1))
    return [low / room, high * room]
