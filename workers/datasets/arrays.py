"""An `.npz` as records, where the uploader declared fields or transforms."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from workers.context import Feeds
from workers.datasets.transforming import Value
from workers.npz import read_headers
from workers.samples import NpzSamples


class ArrayRecords:
    """See `records.Records`."""

    def __init__(self, path: Path):
        samples = NpzSamples(path, "", read_headers(path))
        self._samples = samples
        self.numbered = samples.numbered
        self.count = samples.count
        self.sources = [header.name for header in samples.headers]

    @property
    def usual(self) -> dict[str, str]:
        """All arrays, under their own names."""
        return {name: name for name in self.sources}

    def read(self, index: int, sources: Sequence[str]) -> dict[str, Value]:
        """Some arrays' rows of one number; where they are compressed, by reading all before it."""
        if self.numbered:
            return self._of(*self._samples.sample(index), sources)
        for number, found in enumerate(self.iterate(sources)):
            if number == index:
                return found
        raise IndexError(index)

    def iterate(self, sources: Sequence[str]) -> Iterator[dict[str, Value]]:
        """All rows in order."""
        for feeds, labels in self._samples.batches(64):
            for row in range(len(next(iter(feeds.values())))):
                one = {name: values[row] for name, values in feeds.items()}
                yield self._of(one, None if labels is None else labels[row], sources)

    def where(self, index: int) -> str:
        """A sample in words."""
        return f"sample {index}"

    def _of(self, feeds: Feeds, label: np.ndarray | None, sources: Sequence[str]) -> dict[str, Value]:
        name = self._samples.label_name
        every = feeds if name is None or label is None else {**feeds, name: label}
        return {name: Value(every[name]) for name in sources}
