"""Signal-to-noise ratio against the original model."""

import numpy as np

from app.errors import SignatureMismatch
from workers.measure.metrics import implements

LIMIT_DB = 150.0  # beyond what float32 resolves


@implements("snr")
def scores(outputs: np.ndarray, expected: np.ndarray, first: int) -> np.ndarray:
    """Decibels a sample, from -`LIMIT_DB` (not finite where the original is, or nothing like it) to `LIMIT_DB` (equal).

    Elements that are the same NaN or infinity in both are left out.
    """
    if outputs.shape != expected.shape or {outputs.dtype.kind, expected.dtype.kind} & set("OUS"):
        raise SignatureMismatch(
            f"snr compares numbers of one shape; the outputs are {outputs.dtype} {list(outputs.shape)} and "
            f"{expected.dtype} {list(expected.shape)}",
            param="evaluation.output",
            hint="evaluate another output, or use another metric",
        )
    count = len(outputs)
    got = outputs.reshape(count, -1).astype(np.float64)
    wanted = expected.reshape(count, -1).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        signal, noise = _power(wanted), _power(got - wanted)
    same = np.isfinite(signal) & np.isfinite(noise)
    for row in np.flatnonzero(~same):
        signal[row], noise[row], same[row] = _of_the_finite(got[row], wanted[row])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(signal / noise)
    ratio = np.where(noise == 0, LIMIT_DB, np.clip(ratio, -LIMIT_DB, LIMIT_DB))
    return np.where(same, ratio, -LIMIT_DB)


def _power(rows: np.ndarray) -> np.ndarray:
    return np.array([np.dot(row, row) for row in rows])


def _of_the_finite(got: np.ndarray, wanted: np.ndarray) -> tuple[float, float, bool]:
    """Signal and noise of the elements that are finite in both, and whether the others are alike."""
    both = np.isfinite(got) & np.isfinite(wanted)
    same = both | (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    difference = got[both] - wanted[both]
    return float(np.dot(wanted[both], wanted[both])), float(np.dot(difference, difference)), bool(same.all())
