"""Top-1 accuracy."""

import numpy as np

from workers.measure.metrics import implements
from workers.measure.metrics.classes import hits


@implements("top1")
def scores(outputs: np.ndarray, expected: np.ndarray, first: int) -> np.ndarray:
    """1 where the largest score is at the label; the share of positions where a sample has several labels."""
    return hits(outputs, expected, first, 1)
