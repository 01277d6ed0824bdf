"""What the outputs lost."""

from typing import Any

from app.reports.schemas import Report
from workers.reporting.blocks import Block, Cell, Chart, Code, Column, Paragraph, Section, Table
from workers.reporting.charts import intervals
from workers.reporting.words import NOTHING, between, number

MEASURES = {
    "cosine": "cosine",
    "sqnr_db": "SQNR, dB",
    "max_abs": "largest difference",
    "top1_agreement": "top-1 agreement",
    "exact_agreement": "exact agreement",
}


def accuracy(report: Report) -> Section | None:
    """The drop against its budget, and how far each output agrees with the original's."""
    comparison = report.result.get("comparison")
    if comparison is None:
        return None
    blocks: list[Block] = []
    if drop := comparison.get("accuracy_drop"):
        blocks += _drop(drop, comparison)
    for what, found in (("engine", comparison.get("fidelity")), ("model", comparison.get("model_fidelity"))):
        if outputs := (found or {}).get("outputs"):
            blocks.append(_fidelity(what, outputs))
    return Section("accuracy", "Accuracy and fidelity", blocks) if blocks else None


def _drop(drop: dict[str, Any], comparison: dict[str, Any]) -> list[Block]:
    budget = comparison.get("max_drop")
    marks = [{"at": 0, "what": "nothing lost"}]
    words = f"Accuracy lost: {drop['value']:.4g} ({between(drop, digits=2)}); the dashed line is none"
    if budget is not None:
        marks.append({"at": budget, "what": f"budget {budget:g}"})
        words += f", the other the budget of {budget:g}"
    row = {"name": "drop", "kind": "var(--optimized)", **{key: drop[key] for key in ("value", "low", "high")}}
    blocks: list[Block] = [
        Chart("Accuracy drop", f"{words}.", intervals([row], "accuracy lost", marks=marks)),
    ]
    if needed := comparison.get("samples_needed"):
        blocks.append(
            Paragraph(
                [f"About {needed:,} evaluation samples would decide, if more of them behave alike."], "warn"
            )
        )
    return blocks


def _fidelity(what: str, outputs: dict[str, dict[str, Any]]) -> Table:
    used = [name for name in MEASURES if any(one.get(name) is not None for one in outputs.values())]
    wrong = any(one.get("nonfinite_mismatches") for one in outputs.values())
    columns = [Column("output"), *(Column(MEASURES[name], numeric=True) for name in used)]
    rows = [
        [
            Cell([Code(name)]),
            *(_measure(key, one.get(key)) for key in used),
            *([Cell(str(one.get("nonfinite_mismatches") or NOTHING))] * wrong),
        ]
        for name, one in outputs.items()
    ]
    if wrong:
        columns.append(Column("NaN or infinite on one side", numeric=True))
    told = {
        "engine": "The optimized engine's outputs beside the original's, on the same inputs.",
        "model": "The optimized model beside the original, on ONNX Runtime: the engine itself was not run.",
    }
    return Table(told[what], columns, rows, sortable=len(rows) > 3)


def _measure(name: str, value: float | None) -> Cell:
    """Cosines differ from 1 late, the others early."""
    return number(value, None if value is None else f"{value:.6g}" if name == "cosine" else f"{value:.4g}")
