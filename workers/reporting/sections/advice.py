"""What would help, and the command that tries it."""

from app.profiles.schemas import Advice
from app.reports.schemas import Report
from workers.reporting.blocks import Block, Chart, Code, Listing, Paragraph, Section, Strong, Text
from workers.reporting.charts import intervals
from workers.reporting.words import words

MORE = " --evaluate FILE --max-drop 0.01"


def advice(report: Report) -> Section | None:
    """The pieces of advice, the largest gain first."""
    profile = report.profile
    if profile is None or not profile.advice:
        return None
    blocks: list[Block] = []
    if promised := [(piece, piece.gain) for piece in profile.advice if piece.gain is not None]:
        rows = [
            {
                "name": f"{piece.number}. {piece.title}",
                "kind": "var(--optimized)",
                **gain.model_dump(),
            }
            for piece, gain in promised
        ]
        told = "How many times faster the whole model should become: estimates, and the intervals in which they should lie."
        spec = intervals(rows, "times faster", marks=[{"at": 1, "what": "as fast"}], log=True)
        blocks.append(Chart("What is to be gained", told, spec))
    for piece in profile.advice:
        blocks += _piece(piece, report.job)
    return Section("advice", "What would help", blocks)


def _piece(piece: Advice, job: str) -> list[Block]:
    gain = f" {piece.gain.value:.3g}× ({piece.gain.low:.3g} to {piece.gain.high:.3g})." if piece.gain else ""
    told: list[str | Code | Strong] = [
        Strong(f"{piece.number}. {piece.title}."),
        gain,
        " ",
        *words(piece.why),
    ]
    if piece.layers:
        told += [" Layers: ", *_listed(piece.layers), "."]
    if piece.costs_accuracy:
        told.append(" It may cost accuracy: give data to evaluate on.")
    blocks: list[Block] = [Paragraph(told)]
    if piece.request is not None:
        command = f"burnish jobs submit --advice {job}:{piece.number}{MORE if piece.costs_accuracy else ''}"
        blocks.append(Listing(f"Try {piece.number}", command, "sh"))
    return blocks


def _listed(names: list[str], most: int = 6) -> Text:
    """Some names, and how many more there are."""
    shown: list[str | Code] = []
    for name in names[:most]:
        shown += [", "] * bool(shown) + [Code(name)]
    return [*shown, f" and {len(names) - most} more"] if len(names) > most else shown
