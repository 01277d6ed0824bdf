"""Exact match of whole outputs."""

import numpy as np

from app.errors import SignatureMismatch
from workers.measure.metrics import implements

_KINDS = {"i": "number", "u": "number", "b": "number", "U": "text", "S": "text", "O": "text"}


@implements("exact_match")
def scores(outputs: np.ndarray, expected: np.ndarray, first: int) -> np.ndarray:
    """1 where every element of a sample's output equals its label: integers, truth values or texts."""
    kinds = [_KINDS.get(values.dtype.kind) for values in (outputs, expected)]
    if None in kinds or kinds[0] != kinds[1]:
        raise SignatureMismatch(
            f"exact_match compares integers with integers or texts with texts; the output is {outputs.dtype}, the "
            f"labels are {expected.dtype}",
            param="evaluation.metric",
            hint="evaluate an output that holds classes or texts, or use top1 on scores",
        )
    count = len(outputs)
    given, wanted = outputs.reshape(count, -1), expected.reshape(count, -1)
    if given.shape != wanted.shape:
        raise SignatureMismatch(
            f"a sample's output has shape {list(outputs.shape[1:])}, its label {list(expected.shape[1:])}",
            param="evaluation.output",
            hint="name the output that the labels are for",
        )
    if kinds[0] == "text":
        given, wanted = _texts(given), _texts(wanted)
    return np.asarray(np.all(given == wanted, axis=1), dtype=np.float64)


def _texts(values: np.ndarray) -> np.ndarray:
    return np.array(
        [
            [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in row]
            for row in values
        ],
        dtype=object,
    ).reshape(values.shape)
