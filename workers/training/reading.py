"""Some samples of a dataset, by number, as one batch of tensors: what each process that reads does."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from app.errors import BurnishError, InvalidDataset, SignatureMismatch
from workers.context import Feeds, NumberedSamples
from workers.datasets.memory import MemorySamples
from workers.datasets.rows import stacked
from workers.feeds import plan_feeds
from workers.problems import problem_of
from workers.training.augment import Augment, Sample
from workers.training.data import rows_bytes
from workers.training.task import STAGE

Wanted = tuple[int, np.ndarray]  # the epoch, and numbers of samples
Read = tuple[tuple[Tensor, ...], Tensor | None, Tensor]  # inputs, labels, numbers


class Reading(Dataset[Read | dict[str, Any]]):
    """Batches by `Wanted`. What is wrong with a sample comes back as a problem object: exceptions lose it between processes."""

    def __init__(self, samples: NumberedSamples, inputs: Sequence[Mapping[str, Any]], augment: Augment):
        free = [{**entry, "shape": [None, *entry["shape"][1:]]} for entry in inputs]
        self._plan = plan_feeds(free, samples.inputs)
        if not self._plan.batchable:
            name = next(plan.name for plan in self._plan.inputs if not plan.batched)
            raise SignatureMismatch(
                f"the array of input {name!r} has no sample axis besides the input's own {list(samples.inputs[name][1])}",
                stage=STAGE,
                param=name,
                hint="the first axis of each array counts the samples",
            )
        self._samples, self._augment = samples, augment
        self._names = [entry["name"] for entry in inputs]

    @property
    def count(self) -> int:
        """The number of samples."""
        return self._samples.count

    def __getitem__(self, wanted: Wanted) -> Read | dict[str, Any]:
        """A batch, or the problem that it has."""
        try:
            return self._batch(*wanted)
        except (BurnishError, MemoryError) as error:
            return problem_of(error, STAGE).problem()

    def _batch(self, epoch: int, indices: np.ndarray) -> Read:
        read = [self._sample(epoch, int(index)) for index in indices]
        self._check_shapes(read, indices)
        feeds, labels = stacked(read)
        ready = self._cast(feeds, indices)
        return (
            tuple(torch.from_numpy(ready[name]) for name in self._names),
            None if labels is None else torch.from_numpy(_labels(labels)),
            torch.from_numpy(np.asarray(indices, np.int64)),
        )

    def _sample(self, epoch: int, index: int) -> Sample:
        return self._augment(index, epoch, self.count, self._raw)

    def _raw(self, index: int) -> Sample:
        feeds, label = self._samples.sample(index)
        return {name: feeds[name] for name in self._names}, label

    @property
    def stored_bytes(self) -> int:
        """What all samples take, as they are stored."""
        return rows_bytes(self._samples)

    def keep_in_memory(self) -> None:
        """Keep each sample, as it is stored, from its first reading on: in memory that the processes share which read for this one."""
        self._samples = MemorySamples(self._samples)

    def _cast(self, feeds: Feeds, indices: np.ndarray) -> Feeds:
        try:
            return next(self._plan.feeds(feeds))[0]
        except SignatureMismatch:
            for row, index in enumerate(indices):
                try:
                    next(self._plan.feeds({name: values[row : row + 1] for name, values in feeds.items()}))
                except SignatureMismatch as error:
                    error.detail += f", in sample {index}"
                    raise
            raise

    def _check_shapes(self, read: list[Sample], indices: np.ndarray) -> None:
        for name, first in read[0][0].items():
            for (feeds, _), index in zip(read, indices, strict=True):
                if feeds[name].shape != first.shape:
                    raise InvalidDataset(
                        f"input {name!r} of sample {index} has the shape {list(feeds[name].shape)}, "
                        f"of sample {indices[0]} {list(first.shape)}",
                        stage=STAGE,
                        param=name,
                        hint="upload the data with a `resize` or `center-crop` transform",
                    )


def _labels(labels: np.ndarray) -> np.ndarray:
    return labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)
