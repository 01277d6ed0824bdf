"""Signal-to-noise ratio of the optimized output against the original's."""

import numpy as np

from workers.measure.fidelity import sqnr_db
from workers.measure.metrics import implements


@implements("snr")
def score(output: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
    """10 log10(|original|² / |original - output|²) in dB, at most 200."""
    clean, noisy = (values.reshape(len(values), -1).astype(np.float64) for values in (original, output))
    signal, noise = (clean**2).sum(axis=1), ((clean - noisy) ** 2).sum(axis=1)
    return np.array([sqnr_db(float(s), float(n)) for s, n in zip(signal, noise, strict=True)])
