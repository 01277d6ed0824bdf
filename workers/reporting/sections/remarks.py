"""What a reader must beware of."""

from app.reports.schemas import Report
from workers.reporting.blocks import Bullets
from workers.reporting.words import words


def remarks(report: Report) -> Bullets | None:
    """Warnings, the gap between a profile and the latency, and what a profile or a benchmark cannot tell."""
    told = list(report.result.get("warnings", []))
    if report.profile is not None:
        told += [report.profile.gap] * bool(report.profile.gap) + report.profile.notes
    if report.benchmark is not None:
        told += report.benchmark.notes
    return Bullets([words(text) for text in told], "warn") if told else None
