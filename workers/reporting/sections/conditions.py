"""The machine and the versions that the numbers hold for."""

from app.reports.schemas import Report
from workers.bundle.text import bytes_text, shown
from workers.reporting.blocks import Cell, Code, Column, Section, Table
from workers.reporting.words import NOTHING


def conditions(report: Report) -> Section | None:
    """Where it was measured, and with what."""
    machine = [
        [Cell(name.replace("_", " ")), Cell(_text(name, value))] for name, value in report.machine.items()
    ]
    versions = [[Cell([Code(name)]), Cell(version)] for name, version in report.versions.items()]
    target = [
        [Cell("runtime"), Cell([Code(report.target["runtime"])])],
        *([Cell(name), Cell(shown(value))] for name, value in report.target["params"].items()),
    ]
    pair = [Column(""), Column("")]
    return Section(
        "machine",
        "Machine and versions",
        [Table("Target", pair, target), Table("Machine", pair, machine), Table("Versions", pair, versions)],
        first=False,
    )


def _text(name: str, value: object) -> str:
    if value is None:
        return NOTHING
    return bytes_text(float(value)) if name.endswith("_bytes") and isinstance(value, int) else shown(value)
