"""From nothing to the first answer."""

from app.reports.schemas import Report
from workers.reporting.blocks import Cell, Column, Section, Table
from workers.reporting.words import ms_cell


def cold_start(report: Report) -> Section | None:
    """What a fresh process takes until its first answer."""
    if report.benchmark is None:
        return None
    found = report.benchmark.cold_start
    parts = (
        ("starting Python and importing the runtime", found.import_ms),
        ("loading the engine", found.load_ms),
        ("the first inference", found.first_ms),
    )
    rows = [
        [Cell(label), ms_cell(value)]
        for label, value in (*parts, ("together", sum(value for _, value in parts)))
    ]
    cache = "dropped from" if found.dropped else "in"
    caption = f"Medians of {found.launches} fresh processes, the engine's files {cache} the page cache."
    return Section(
        "cold-start", "Cold start", [Table(caption, [Column("part"), Column("time", numeric=True)], rows)]
    )
