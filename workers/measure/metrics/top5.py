"""Top-5 accuracy."""

import numpy as np

from workers.measure.metrics import implements
from workers.measure.metrics.classes import hits


@implements("top5")
def scores(outputs: np.ndarray, expected: np.ndarray, first: int) -> np.ndarray:
    """1 where the label is among the five largest scores; the share of positions where a sample has several labels."""
    return hits(outputs, expected, first, 5)
