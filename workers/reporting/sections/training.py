"""The parts of a training step."""

from app.reports.schemas import Report
from workers.reporting.blocks import Block, Cell, Chart, Column, Section, Table
from workers.reporting.charts import bars
from workers.reporting.words import ms_cell, number


def training(report: Report) -> Section | None:
    """Where a step's time goes: reading, forward, loss, backward, optimizer."""
    profile = report.profile
    if profile is None or not profile.phases:
        return None
    rows = [
        [Cell(one.name), ms_cell(one.mean_ms), number(one.share, f"{one.share:.0%}")]
        for one in profile.phases
    ]
    drawn = [{"name": one.name, "value": one.mean_ms, "kind": "var(--optimized)"} for one in profile.phases]
    words = "Mean time of each part of a step, in milliseconds."
    columns = [Column("part"), Column("time", numeric=True), Column("share", numeric=True)]
    blocks: list[Block] = [Chart("A training step", words, bars(drawn, "ms")), Table(words, columns, rows)]
    return Section("training", "Training step", blocks)
