"""How long runs took: every one of them, and block by block."""

from typing import Any

from app.reports.schemas import Distribution, Report
from workers.reporting.blocks import Block, Cell, Chart, Column, Section, Table
from workers.reporting.charts import SIDES, by_side, chart, decades, shape_by_side
from workers.reporting.words import number

SHOWN = (0.05, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)
MARKED = (0.5, 0.9, 0.99)
LAST = 0.995  # of the runs, up to which the chart goes
ENOUGH = 10  # runs beyond a quantile, for it to be told


def latency(report: Report) -> Section | None:
    """The distributions of the timed runs, from all of them."""
    found = report.distributions
    if not found:
        return None
    blocks: list[Block] = [
        Chart("Share of runs that took at most so long", _words(found), _cumulative(found)),
        _table(found),
        Chart(
            "Block by block",
            "The median of each block of runs, against the median of its side: launches differ, drifts show as a slope.",
            _blocks(found),
        ),
    ]
    return Section("latency", "Latency distribution", blocks)


def _words(found: list[Distribution]) -> str:
    return (
        "A line for each launch; marked are the p50, the p90 and the p99 of all launches together. "
        f"The slowest {1 - LAST:.1%} of the runs are in the table alone."
    )


def _at(one: Distribution, probability: float) -> float:
    return one.quantiles_ms[one.probabilities.index(probability)]


def _cumulative(found: list[Distribution]) -> dict[str, Any]:
    lines = [
        {"side": SIDES[one.side], "launch": f"{one.side} {place}", "share": share, "ms": value}
        for one in found
        for place, launch in enumerate(one.launches, 1)
        for share, value in zip(one.probabilities, launch.quantiles_ms, strict=True)
    ]
    marks = [
        {"side": SIDES[one.side], "share": share, "ms": _at(one, share), "what": f"p{100 * share:g}"}
        for one in found
        for share in MARKED
        if one.runs * (1 - share) >= ENOUGH
    ]
    domain = decades(min(one.quantiles_ms[0] for one in found), max(_at(one, LAST) for one in found))
    x = {
        "field": "ms",
        "type": "quantitative",
        "title": "milliseconds",
        "scale": {"type": "log", "domain": domain, "nice": False},
        "axis": {"format": "~g", "tickCount": 6, "labelOverlap": True},
    }
    y = {
        "field": "share",
        "type": "quantitative",
        "title": "runs that took at most so long",
        "axis": {"format": "%", "tickCount": 5},
    }
    sides = [one.side for one in found]
    colour = by_side(sides)
    tooltip = [
        {"field": "side", "title": " "},
        {"field": "what", "title": "percentile"},
        {"field": "ms", "format": ".4~g", "title": "ms"},
    ]
    return chart(
        lines,
        height=260,
        layer=[
            {
                "mark": {"type": "line", "opacity": 0.55, "clip": True, "strokeWidth": 1.5},
                "encoding": {"x": x, "y": y, "color": colour, "detail": {"field": "launch"}},
            },
            {
                "data": {"values": marks},
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1, "clip": True},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colour,
                    "tooltip": tooltip,
                    "shape": shape_by_side(sides),
                },
            },
        ],
    )


def _table(found: list[Distribution]) -> Table:
    shown = [share for share in SHOWN if any(_told(one, share) for one in found)]
    rows = [
        [Cell(SIDES[one.side]), Cell(f"{one.runs:,}", value=one.runs), number(one.quantiles_ms[0])]
        + [number(_at(one, share) if _told(one, share) else None) for share in shown]
        + [number(one.quantiles_ms[-1])]
        for one in found
    ]
    columns = ["", "runs", "least", *(f"p{100 * share:g}" for share in shown), "most"]
    caption = "Percentiles of all timed runs in milliseconds; those that too few runs carry are left out."
    return Table(caption, [Column(title, numeric=bool(title)) for title in columns], rows)


def _told(one: Distribution, share: float) -> bool:
    return one.runs * min(share, 1 - share) >= ENOUGH or share == 0.5


def _blocks(found: list[Distribution]) -> dict[str, Any]:
    rows = [
        {
            "side": SIDES[one.side],
            "launch": place - 0.5 + (turn + 0.5) / len(launch.block_medians_ms),
            "off": value / _at(one, 0.5) - 1,
            "ms": value,
        }
        for one in found
        for place, launch in enumerate(one.launches, 1)
        for turn, value in enumerate(launch.block_medians_ms)
    ]
    launches = max(len(one.launches) for one in found)
    return chart(
        rows,
        height=180,
        mark={"type": "point", "filled": True, "size": 42, "opacity": 0.75},
        encoding={
            "x": {
                "field": "launch",
                "type": "quantitative",
                "title": "launch",
                "scale": {"domain": [0.5, launches + 0.5], "nice": False},
                "axis": {
                    "values": list(range(1, launches + 1)),
                    "format": ".0f",
                    "grid": False,
                },
            },
            "y": {
                "field": "off",
                "type": "quantitative",
                "title": "against the side's median",
                "axis": {"format": "+.1~%", "tickCount": 5},
            },
            "color": by_side([one.side for one in found]),
            "shape": shape_by_side([one.side for one in found]),
            "tooltip": [
                {"field": "side", "title": " "},
                {"field": "ms", "format": ".4~g", "title": "median, ms"},
                {"field": "off", "format": "+.1%", "title": "off"},
            ],
        },
    )
