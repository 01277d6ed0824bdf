"""Mean absolute error against labels that are numbers."""

import numpy as np

from app.errors import SignatureMismatch
from workers.measure.metrics import implements


@implements("mae")
def scores(outputs: np.ndarray, expected: np.ndarray, first: int) -> np.ndarray:
    """The mean, over a sample's elements, of how far the output is off, in the output's unit."""
    count = len(outputs)
    if outputs.dtype.kind in "OUS" or expected.dtype.kind in "OUS":
        raise SignatureMismatch(
            f"mae compares numbers; the output is {outputs.dtype}, the labels are {expected.dtype}",
            param="evaluation.metric",
        )
    given, wanted = outputs.reshape(count, -1), expected.reshape(count, -1)
    if given.shape != wanted.shape:
        raise SignatureMismatch(
            f"a sample's output has shape {list(outputs.shape[1:])}, its label {list(expected.shape[1:])}",
            param="evaluation.output",
            hint="name the output that the labels are for",
        )
    return np.asarray(np.mean(np.abs(given.astype(np.float64) - wanted.astype(np.float64)), axis=1))
