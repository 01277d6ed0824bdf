"""The steps of the job."""

from app.reports.schemas import Report
from workers.reporting.blocks import Block, Bullets, Cell, Code, Column, Section, Table
from workers.reporting.words import number, seconds_text, words


def steps(report: Report) -> Section | None:
    """What was run, what was stored already, how long it took."""
    if not report.steps:
        return None
    rows = [
        [
            Cell([Code(step.name)]),
            number(step.seconds, seconds_text(step.seconds)),
            Cell("from the cache" if step.cached else "run"),
            Cell([Code(f"{step.key[:16]}…")]),
        ]
        for step in report.steps
    ]
    columns = [Column("step"), Column("time", numeric=True), Column("how"), Column("key")]
    caption = "Steps whose files are stored; the time is that of the run. Measurements are never taken from the cache."
    blocks: list[Block] = [Table(caption, columns, rows)]
    if told := [[Code(step.name), ": ", *words(text)] for step in report.steps for text in step.told]:
        blocks.append(Bullets(told))
    return Section("steps", "Steps", blocks, first=False)
