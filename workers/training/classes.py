"""Whether labels tell anything apart, found before training begins."""

import numpy as np

from app.errors import InvalidDataset
from workers.context import Samples
from workers.datasets.records import RecordSamples
from workers.samples import NpzSamples
from workers.training.task import STAGE


def check_classes(samples: Samples) -> None:
    """Read labels that are classes or truth values, and nothing else of the samples, until two differ.

    Raises:
        InvalidDataset: all are the same, or one cannot be read.
    """
    if not isinstance(samples, NpzSamples | RecordSamples) or samples.labels is None:
        return
    if samples.labels[0] == "string" or np.dtype(samples.labels[0]).kind not in "iub":
        return
    one: int | None = None
    for label in samples.each_label():
        for value in (int(label.min()), int(label.max())) if label.size else ():
            one = value if one is None else one
            if value != one:
                return
    raise InvalidDataset(
        f"all of the {samples.count} training samples have the label {one}: there is nothing to tell apart",
        stage=STAGE,
        param="labels",
        hint="give samples of every class; `distill` with hard_weight=0 and `qat` with soft=1 learn without labels",
    )
