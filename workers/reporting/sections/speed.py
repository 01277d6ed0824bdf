"""How much faster, and how far to trust that."""

from app.reports.schemas import Report
from workers.reporting.blocks import Bullets, Chart, Section, Text
from workers.reporting.charts import intervals
from workers.reporting.words import VERDICTS, between

NAMES = {
    "speedup": ("over the original", "var(--optimized)"),
    "speedup_over_reference": ("over the source framework", "var(--reference)"),
    "control": ("control: original, twice", "var(--baseline)"),
}


def speed(report: Report) -> Section | None:
    """The speed-up beside the control of the same session."""
    comparison = report.result.get("comparison", {})
    found = {name: comparison[name] for name in NAMES if comparison.get(name)}
    if "speedup" not in found:
        return None
    rows = [
        {
            "name": NAMES[name][0],
            "kind": NAMES[name][1],
            **{key: one[key] for key in ("value", "low", "high")},
        }
        for name, one in found.items()
    ]
    told: list[Text] = [
        [f"{NAMES[name][0]}: {one['value']:.4g}× ({between(one)}): {VERDICTS[one['verdict']]}"]
        for name, one in found.items()
        if name != "control"
    ]
    if control := found.get("control"):
        told.append(
            [
                f"control, the original against another launch of itself, whose truth is 1: {control['value']:.4g}× ({between(control)}). "
                "A speed-up counts only where it is more than this."
            ]
        )
    spec = intervals(rows, "times faster", marks=[{"at": 1, "what": "as fast"}], log=True)
    words = "How many times faster, with 95% intervals. Right of the dashed line is faster."
    return Section("speed", "Speed-up", [Chart("Speed-up and control", words, spec), Bullets(told)])
