"""What tensors take."""

from app.reports.schemas import Report
from workers.bundle.text import bytes_text
from workers.reporting.blocks import Block, Cell, Chart, Code, Column, Paragraph, Section, Table
from workers.reporting.charts import bars
from workers.reporting.words import bytes_cell

SHOWN = 10


def memory(report: Report) -> Section | None:
    """The peak, and the operators that make it."""
    profile = report.profile
    if profile is None or (profile.peak_memory_bytes is None and not profile.memory):
        return None
    blocks: list[Block] = []
    if profile.peak_memory_bytes is not None:
        blocks.append(Paragraph([f"{bytes_text(profile.peak_memory_bytes)} of tensors at most."]))
    if found := profile.memory[:SHOWN]:
        drawn = [
            {"name": str(one["operator"]), "value": one["bytes"], "kind": "var(--memory)"} for one in found
        ]
        words = f"The {len(found)} operators that allocate most, in bytes."
        blocks.append(Chart("Memory by operator", words, bars(drawn, "bytes", ticks="~s")))
        rows = [[Cell([Code(str(one["operator"]))]), bytes_cell(one["bytes"])] for one in profile.memory]
        columns = [Column("operator"), Column("bytes", numeric=True)]
        blocks.append(Table("Memory by operator.", columns, rows, sortable=True, brief=SHOWN))
    return Section("memory", "Memory", blocks)
