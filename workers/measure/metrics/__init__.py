"""One file a metric: `@implements(SPEC.name)` on `score(output, labels, original) -> scores`, one number a sample."""

from collections.abc import Callable

import numpy as np

from workers.registry import Registry

# output [samples, …], labels [samples, …] or None, the original's output [samples, …] -> scores [samples] float64
Score = Callable[[np.ndarray, np.ndarray | None, np.ndarray], np.ndarray]

registry: Registry[Score] = Registry(__name__, "metric")
implements = registry.implements
