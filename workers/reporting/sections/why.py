"""What explains the speed."""

from app.reports.schemas import Report
from workers.reporting.blocks import Bullets, Section
from workers.reporting.words import words


def why(report: Report) -> Section | None:
    """The reasons that the runtimes give: nodes by precision, fallbacks, what did not fuse."""
    reasons = report.result.get("comparison", {}).get("why")
    return Section("why", "Why", [Bullets([words(reason) for reason in reasons])]) if reasons else None
