"""Top-1 accuracy."""

import numpy as np

from workers.measure.metrics import implements
from workers.measure.metrics.classes import label_ranks, per_sample


@implements("top1")
def score(output: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
    """1 where the largest score is at the label."""
    assert labels is not None
    return per_sample(label_ranks(output, labels) < 1)
