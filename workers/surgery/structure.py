"""The structure report: the layers of a model with their parameters, FLOPs and output, and what surgery could save at each."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from app.text import plain
from workers.surgery.savings import Weight, savings

MOST_LAYERS = 10_000
_LONGEST_NAME = 300


@dataclass(frozen=True)
class Row:
    """A layer as `LayerCount` has it, and its weight where it has one that surgery knows."""

    name: str
    kind: str
    parameters: int
    flops: int | None  # None: its shapes are not known
    output: tuple[int, ...]
    weight: Weight | None = None
    channels: dict[str, int] | None = None  # what `prune-channels` could remove, where it is known
    branch: dict[str, Any] | None = None  # what goes with the layer where `shrink-depth` drops its branch


def report(rows: Iterable[Row], source: str) -> dict[str, Any]:
    """What is kept with a model: {source, parameters, flops, layers, left_out}.

    `source` is what was counted: `program` (names are those that surgery passes use) or `onnx` (names of nodes). `layers` are
    in the order of the graph: {name, kind, parameters, flops, output, savings}; beyond `MOST_LAYERS` they are only counted, in
    `left_out` and in the sums.
    """
    held = list(rows)
    return {
        "source": source,
        "parameters": sum(row.parameters for row in held),
        "flops": sum(row.flops or 0 for row in held),
        "layers": [_told(row) for row in held[:MOST_LAYERS]],
        "left_out": max(0, len(held) - MOST_LAYERS),
    }


def _told(row: Row) -> dict[str, Any]:
    told = asdict(row)
    del told["weight"], told["channels"], told["branch"]
    known = row.weight is not None and row.flops is not None
    saved = savings(row.weight, row.flops) if known else {}  # type: ignore[arg-type]
    if row.channels is not None:
        saved["prune-channels"] = dict(row.channels)
    if row.branch is not None:
        saved["shrink-depth"] = row.branch | {"branch": plain(row.branch["branch"], _LONGEST_NAME)}
    return told | {
        "name": plain(row.name, _LONGEST_NAME),
        "kind": plain(row.kind, _LONGEST_NAME),
        "output": list(row.output),
        "savings": saved,
    }
