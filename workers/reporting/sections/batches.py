"""The batch curve: what larger batches bring, and where that ends."""

from typing import Any

from app.benchmarks.schemas import Point
from app.reports.schemas import Report
from workers.reporting.blocks import Bullets, Chart, Section
from workers.reporting.charts import chart
from workers.reporting.words import amount

COLOURS = ("--optimized", "--reference", "--baseline", "--good", "--bad", "--warn")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")


def batches(report: Report) -> Section | None:
    """Throughput over the batch in scenario offline, where more than one was tried."""
    if report.benchmark is None:
        return None
    curve = [point for point in report.benchmark.points if point.scenario == "offline" and point.throughput]
    if len({point.batch for point in curve}) < 2:
        return None
    told = [
        [
            f"{knee.threads} threads, {knee.streams} streams: batch {knee.batch} reaches {amount(knee.throughput_per_s)}/s; the best "
            f"is {amount(knee.best_throughput_per_s)}/s, at batch {knee.best_batch}"
        ]
        for knee in report.benchmark.knees
    ]
    words = (
        "Samples a second by the batch, with 95% intervals; a line for each number of threads and streams."
    )
    return Section(
        "batches", "Batch curve", [Chart("Throughput by batch", words, _chart(curve)), Bullets(told)]
    )


def _chart(curve: list[Point]) -> dict[str, Any]:
    rows = [
        {
            "batch": point.batch,
            "line": f"{point.threads} threads, {point.streams} streams",
            **point.throughput.model_dump(),
        }
        for point in curve
        if point.throughput is not None
    ]
    lines = sorted({row["line"] for row in rows})
    tried = sorted({row["batch"] for row in rows})
    x = {
        "field": "batch",
        "type": "quantitative",
        "title": "batch",
        "scale": {"type": "log", "base": 2, "domain": [tried[0], tried[-1]], "nice": False, "padding": 12},
        "axis": {"values": tried, "format": "d", "labelOverlap": True, "grid": False},
    }
    y = {"type": "quantitative", "title": "samples a second", "axis": {"format": "~s", "tickCount": 5}}
    ranges = [f"var({COLOURS[place % len(COLOURS)]})" for place in range(len(lines))]
    shapes = [SHAPES[place % len(SHAPES)] for place in range(len(lines))]
    line = {"field": "line", "type": "nominal"}
    colour = {**line, "scale": {"domain": lines, "range": ranges}}
    tooltip = [
        {"field": "line", "title": " "},
        {"field": "batch", "title": "batch"},
        *({"field": key, "format": ".4~g", "title": key} for key in ("value", "low", "high")),
    ]
    return chart(
        rows,
        height=260,
        layer=[
            {
                "mark": {"type": "line", "strokeWidth": 2, "opacity": 0.6},
                "encoding": {"x": x, "y": {**y, "field": "value"}, "color": colour},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.5},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                "encoding": {
                    "x": x,
                    "y": {**y, "field": "value"},
                    "color": colour,
                    "shape": {**line, "scale": {"domain": lines, "range": shapes}},
                    "tooltip": tooltip,
                },
            },
        ],
    )
