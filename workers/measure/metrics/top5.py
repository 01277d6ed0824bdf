"""Top-5 accuracy."""

import numpy as np

from workers.measure.metrics import implements
from workers.measure.metrics.classes import label_ranks, per_sample


@implements("top5")
def score(output: np.ndarray, labels: np.ndarray | None, original: np.ndarray) -> np.ndarray:
    """1 where fewer than five classes score higher than the label."""
    assert labels is not None
    return per_sample(label_ranks(output, labels) < 5)
