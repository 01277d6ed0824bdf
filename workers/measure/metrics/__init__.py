"""One file a metric: `@implements(NAME)` on a function `scores(outputs, expected, first)`.

It gives a score a sample, [n] in float64, whose mean is the metric's value. `outputs` is [n, …], the evaluated output of
n samples; `expected` is their labels, or the original model's output where the metric is paired; `first` is the number
of the first sample in the dataset, for errors. The metric in the catalog: `app/catalog/metrics.py`.

Raises (each): SignatureMismatch, the output or labels have no fitting shape or type; InvalidDataset, a label cannot be.
"""

from collections.abc import Callable

import numpy as np

from workers.registry import Registry

Scores = Callable[[np.ndarray, np.ndarray, int], np.ndarray]

registry: Registry[Scores] = Registry(__name__, "metric")
implements = registry.implements
