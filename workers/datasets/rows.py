"""Samples as rows of plain files, one for each array: read by number by any number of processes."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from workers.context import Feeds, Samples
from workers.datasets.file_rows import FileRows

_INDEX = "rows.json"
_LABELS = "\0labels"  # no input's name
_AT_ONCE = 64  # samples


class RowSamples:
    """See `context.Samples`: what `write_rows` wrote."""

    synthetic = False
    numbered = True

    def __init__(self, folder: Path):
        self.folder = folder
        found = json.loads((folder / _INDEX).read_text())
        self.digest: str = found["digest"]
        self.count: int = found["count"]
        self._arrays: dict[str, Any] = {entry["name"]: entry for entry in found["arrays"]}

    @property
    def inputs(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """By name: (dtype, shape without the sample axis)."""
        return {name: self._kind(name) for name in self._arrays if name != _LABELS}

    @property
    def labels(self) -> tuple[str, tuple[int, ...]] | None:
        """(dtype, shape without the sample axis) of the labels, if there are any."""
        return self._kind(_LABELS) if _LABELS in self._arrays else None

    def sample(self, index: int) -> tuple[Feeds, np.ndarray | None]:
        """One sample without a batch axis, and its label or None."""
        return {name: self._rows[name][index] for name in self.inputs}, self.label(index)

    def label(self, index: int) -> np.ndarray | None:
        """One sample's label or None."""
        return self._rows[_LABELS][index] if _LABELS in self._rows else None

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[Feeds, np.ndarray | None]]:
        """Feeds of at most `size` samples with their labels or None; at most `limit` samples in all."""
        total = self.count if limit is None else min(limit, self.count)
        for start in range(0, total, size):
            yield stacked([self.sample(index) for index in range(start, min(start + size, total))])

    @cached_property
    def _rows(self) -> dict[str, FileRows]:
        return {
            name: FileRows(
                self.folder / entry["file"], 0, np.dtype(entry["dtype"]), (self.count, *entry["shape"])
            )
            for name, entry in self._arrays.items()
        }

    def _kind(self, name: str) -> tuple[str, tuple[int, ...]]:
        return self._arrays[name]["dtype"], tuple(self._arrays[name]["shape"])


def write_rows(
    samples: Samples, folder: Path, report: Callable[[int, int], None] = lambda done, total: None
) -> RowSamples:
    """Read all samples once and write them as rows into an empty folder, less text. `report` gets (done, total).

    Raises:
        InvalidDataset: a sample cannot be read.
    """
    written: dict[str, IO[bytes]] = {}
    arrays: list[dict[str, Any]] = []
    done = 0
    with ExitStack() as stack:
        for feeds, labels in samples.batches(_AT_ONCE):
            parts = feeds if labels is None else {**feeds, _LABELS: labels}
            for name, values in parts.items():
                if values.dtype.kind not in "fiub":
                    continue
                if name not in written:
                    file = f"{len(arrays)}.rows"
                    arrays.append(
                        {
                            "name": name,
                            "file": file,
                            "dtype": values.dtype.name,
                            "shape": list(values.shape[1:]),
                        }
                    )
                    written[name] = stack.enter_context((folder / file).open("wb"))
                written[name].write(np.ascontiguousarray(values).data)
            done += len(next(iter(feeds.values())))
            report(done, samples.count)
    index = {"digest": samples.digest, "count": done, "arrays": arrays}
    (folder / _INDEX).write_text(json.dumps(index))
    return RowSamples(folder)


def stacked(samples: list[tuple[Feeds, np.ndarray | None]]) -> tuple[Feeds, np.ndarray | None]:
    """Samples of equal shapes as one batch."""
    first, label = samples[0]
    feeds = {name: np.stack([feeds[name] for feeds, _ in samples]) for name in first}
    return feeds, None if label is None else np.stack([one for _, one in samples if one is not None])
