"""Weights by name, as files hold them: read without running code, and held against what a network needs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from app.errors import InvalidModel, UnsupportedFormat
from app.text import plain
from workers.torch.model import dtype_name

MOST_LISTED = 20
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_COUNTERS = (torch.int64, torch.int32, torch.bool)  # positions, counts of batches


@dataclass(frozen=True)
class Unfit:
    """Weights that do not fit: a sentence, and a list for `BurnishError.errors`."""

    summary: str
    errors: list[dict[str, Any]]


def read_safetensors(files: Iterable[Path]) -> dict[str, torch.Tensor]:
    """The tensors of `.safetensors` files.

    Raises:
        InvalidModel: one is damaged, or two hold the same name.
        UnsupportedFormat: the weights are quantized.
    """
    found: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            held = load_file(file)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InvalidModel(
                f"{file.name} is no safetensors file, or it is damaged: {plain(str(error), 300)}",
                hint="upload it again",
            ) from error
        if twice := sorted(found.keys() & held.keys())[:MOST_LISTED]:
            raise InvalidModel(f"{file.name} holds weights that another file holds too: {twice}")
        found |= held
    check_dtypes(found)
    return found


def check_dtypes(weights: dict[str, torch.Tensor]) -> None:
    """Raises UnsupportedFormat where weights are of a type that networks are not trained in."""
    for name, value in weights.items():
        if value.dtype not in (*_FLOATS, *_COUNTERS):
            raise UnsupportedFormat(
                f"the weights are quantized: {plain(name, 200)!r} is {dtype_name(value.dtype)}",
                node=name,
                hint="upload the model as it was before it was quantized; recipes quantize it",
            )


def unfit(
    missing: Sequence[str],
    unexpected: Sequence[str],
    misshapen: Sequence[tuple[str, Sequence[int], Sequence[int]]],
) -> Unfit | None:
    """What does not fit, at most `MOST_LISTED` of a kind listed; `misshapen` are (name, shape held, shape needed).

    None where all do.
    """
    counts = [
        f"{len(found)} {what}"
        for found, what in (
            (missing, "missing"),
            (unexpected, "without a place"),
            (misshapen, "of another shape"),
        )
        if found
    ]
    if not counts:
        return None
    errors = [
        *((name, "missing") for name in missing[:MOST_LISTED]),
        *((name, "the network has no place for it") for name in unexpected[:MOST_LISTED]),
        *(
            (name, f"is {list(held)}, must be {list(needed)}")
            for name, held, needed in misshapen[:MOST_LISTED]
        ),
    ]
    return Unfit(
        ", ".join(counts), [{"path": plain(name, 200), "message": message} for name, message in errors]
    )
