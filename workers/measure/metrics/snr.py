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
    both = np.isfinite(got) & np.isfinite(wanted)
    same = both | (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    signal = np.sum(np.where(both, wanted, 0.0) ** 2, axis=1)
    noise = np.sum(np.where(both, got - np.where(both, wanted, 0.0), 0.0) ** 2, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(signal / noise)
    ratio = np.where(noise == 0, LIMIT_DB, np.clip(ratio, -LIMIT_DB, LIMIT_DB))
    return np.where(np.all(same, axis=1), ratio, -LIMIT_DB)
