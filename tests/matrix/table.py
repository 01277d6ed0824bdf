"""Write `docs/support-matrix.md`: `python -m tests.matrix.table`."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.matrix.judge import Cell, judge
from tests.matrix.uploads import FORMATS, KINDS

PAGE = Path(__file__).parents[2] / "docs" / "support-matrix.md"
RUNTIMES = ("onnxruntime-cpu", "openvino-cpu", "torch-eager", "torch-inductor-cpu")
Cells = Mapping[tuple[str, str, str], Cell]
WHAT = {
    "cnn": "a residual network with batch norms; of the zoo for state-dict",
    "recurrent": "LSTM and GRU with a free length; for torchscript with an `if` on the data",
    "encoder": "a transformer encoder with free batch and sequence",
    "detector": "convolutions, decoded boxes, the best five by score",
}


def page(cells: Cells) -> Iterator[str]:
    """The page, line by line."""
    yield from (
        "<!-- Written by `python -m tests.matrix.table`. -->",
        "",
        "# What runs where",
        "",
        "Each network was uploaded in each format, inspected, converted where the runtime needs it, built, run, and its outputs held "
        "against its own framework (60 dB at least). A dash: the format has no such network here. A code: refused, with the "
        "reason below.",
        "",
        f"| format | network | {' | '.join(f'`{name}`' for name in RUNTIMES)} |",
        f"| --- | --- |{' --- |' * len(RUNTIMES)}",
    )
    for format_ in FORMATS:
        for kind in KINDS:
            shown = [_shown(cells[format_, kind, runtime]) for runtime in RUNTIMES]
            if set(shown) != {"–"}:
                yield f"| `{format_}` | {kind} | {' | '.join(shown)} |"
    yield from ("", "The networks: " + "; ".join(f"{kind}: {text}" for kind, text in WHAT.items()) + ".")
    yield from ("", "## Refused", "")
    for (format_, kind, runtime), cell in cells.items():
        if cell.outcome not in ("works", "absent"):
            yield f"- `{format_}`, {kind}, `{runtime}`: `{cell.outcome}`, {_plain(cell.detail)}"
    yield from (
        "",
        "`tensorflow` needs the extra of that name, which is not installed where this page is made: such an upload is refused with the "
        "way to convert it. What runs on GPUs is not in it: there is none where this page is made.",
    )


def _shown(cell: Cell) -> str:
    return {"works": "yes", "absent": "–"}.get(cell.outcome, f"`{cell.outcome}`")


def _plain(text: str) -> str:
    return " ".join(text.split())[:300]


def main() -> int:
    """Judge every cell and write the page."""
    cells = {
        (format_, kind, runtime): judge(format_, kind, runtime)
        for format_ in FORMATS
        for kind in KINDS
        for runtime in RUNTIMES
    }
    PAGE.write_text("\n".join(page(cells)) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
