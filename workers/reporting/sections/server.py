"""Scenario server: every rate that was tried, and whether it kept the bound."""

from typing import Any

from app.benchmarks.schemas import Point, Trial
from app.reports.schemas import Report
from workers.reporting.blocks import Block, Cell, Chart, Column, Section, Table, Tone
from workers.reporting.charts import chart
from workers.reporting.sections.scenarios import name_of
from workers.reporting.words import amount, ms_cell, number

KEPT: dict[bool | None, tuple[str, Tone]] = {
    True: ("kept", "good"),
    False: ("broken", "bad"),
    None: ("untold", "warn"),
}


def server(report: Report) -> Section | None:
    """How latency grows with the rate at which queries arrive."""
    if report.benchmark is None:
        return None
    blocks: list[Block] = []
    for point in report.benchmark.points:
        if not point.server:
            continue
        trials = sorted(point.server, key=lambda trial: trial.rate_per_s)
        drawn = [trial for trial in trials if trial.p99_ms is not None]
        if len(drawn) > 1 and point.bound_ms is not None:
            words = f"{name_of(point)}: the p99 by the rate of arrivals; the dashed line is the bound of {point.bound_ms:g} ms."
            blocks.append(Chart("Latency by rate", words, _chart(drawn, point)))
        blocks.append(_table(point, trials))
    return Section("server", "Queries that arrive at random", blocks) if blocks else None


def _table(point: Point, trials: list[Trial]) -> Table:
    rows = [
        [
            number(trial.rate_per_s, f"{amount(trial.rate_per_s)}/s"),
            number(trial.queries, f"{trial.queries:,}"),
            number(trial.late, f"{trial.late:,}", f"{trial.late / max(trial.queries, 1):.2%}"),
            ms_cell(trial.p99_ms),
            number(trial.mean_batch, f"{trial.mean_batch:.3g}"),
            number(trial.utilization, f"{trial.utilization:.0%}"),
            Cell(KEPT[trial.kept][0], tone=KEPT[trial.kept][1]),
        ]
        for trial in trials
    ]
    titles = ("rate", "queries", "late", "p99", "mean batch", "busy")
    columns = [*(Column(title, numeric=True) for title in titles), Column("bound")]
    caption = f"{name_of(point)}: every rate that was tried; at most one query in a hundred may take longer than {point.bound_ms:g} ms."
    return Table(caption, columns, rows, sortable=True)


def _chart(trials: list[Trial], point: Point) -> dict[str, Any]:
    rows = [
        {
            "rate": trial.rate_per_s,
            "p99": trial.p99_ms,
            "busy": trial.utilization,
            "bound": KEPT[trial.kept][0],
        }
        for trial in trials
    ]
    kept = {
        "field": "bound",
        "type": "nominal",
        "scale": {
            "domain": ["kept", "broken", "untold"],
            "range": ["var(--good)", "var(--bad)", "var(--warn)"],
        },
    }
    shape = {
        **kept,
        "scale": {"domain": ["kept", "broken", "untold"], "range": ["circle", "cross", "triangle-up"]},
    }
    x = {
        "field": "rate",
        "type": "quantitative",
        "title": "queries a second",
        "scale": {"zero": False},
        "axis": {"format": "~s", "tickCount": 6},
    }
    y = {
        "field": "p99",
        "type": "quantitative",
        "title": "p99, ms",
        "scale": {"type": "log", "nice": False},
        "axis": {"format": "~g", "tickCount": 5},
    }
    bound = {
        "data": {"values": [{"p99": point.bound_ms}]},
        "mark": {"type": "rule", "strokeDash": [4, 3]},
        "encoding": {"y": y},
    }
    tooltip = [
        {"field": "rate", "format": ".4~g", "title": "queries a second"},
        {"field": "p99", "format": ".4~g", "title": "p99, ms"},
        {"field": "busy", "format": ".0%", "title": "busy"},
        {"field": "bound", "title": "bound"},
    ]
    return chart(
        rows,
        height=220,
        layer=[
            bound,
            {"mark": {"type": "line", "color": "var(--muted)", "opacity": 0.5}, "encoding": {"x": x, "y": y}},
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                "encoding": {"x": x, "y": y, "color": kept, "shape": shape, "tooltip": tooltip},
            },
        ],
    )
