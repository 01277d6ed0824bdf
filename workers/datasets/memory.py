"""Samples kept in memory from their first reading on, shared with the processes that are forked afterwards."""

import mmap
from collections.abc import Iterator, Mapping
from math import prod

import numpy as np

from workers.context import Feeds, NumberedSamples

_LABELS = "\0labels"  # no input's name


class MemorySamples:
    """See `context.NumberedSamples`. Two processes that read a sample at the same time both write the same bytes.

    Arrays of text are not kept, nor given.
    """

    numbered = True

    def __init__(self, samples: NumberedSamples):
        self._from = samples
        self.digest, self.count, self.synthetic = samples.digest, samples.count, samples.synthetic
        self.labels = samples.labels
        self.inputs: Mapping[str, tuple[str, tuple[int, ...]]] = {
            name: kind for name, kind in samples.inputs.items() if kind[0] != "string"
        }
        kinds = dict(self.inputs)
        if self.labels is not None and self.labels[0] != "string":
            kinds[_LABELS] = self.labels
        self._kept = _shared(self.count, "bool", ())
        self._rows = {name: _shared(self.count, *kind) for name, kind in kinds.items()}

    def sample(self, index: int) -> tuple[Feeds, np.ndarray | None]:
        """One sample without a batch axis, and its label or None."""
        if not self._kept[index]:
            feeds, label = self._from.sample(index)
            for name, rows in self._rows.items():
                rows[index] = label if name == _LABELS else feeds[name]
            self._kept[index] = True
        label = self._rows[_LABELS][index] if _LABELS in self._rows else None
        return {name: self._rows[name][index] for name in self.inputs}, label

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[Feeds, np.ndarray | None]]:
        """See `Samples.batches`; what is read so is not kept."""
        return self._from.batches(size, limit)


def _shared(count: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array of zeros that forked processes share. Pages are taken as they are written."""
    kind = np.dtype(dtype)
    held = mmap.mmap(-1, max(1, count * prod(shape) * kind.itemsize))
    return np.frombuffer(held, kind, count * prod(shape)).reshape(count, *shape)
