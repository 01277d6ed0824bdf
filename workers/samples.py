"""Datasets as streams of batches: from an `.npz`, or generated from a seed to fit a signature."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import SignatureMismatch
from workers.assignment import DatasetFiles
from workers.context import Feeds, Samples
from workers.datasets.file_rows import FileRows
from workers.npz import LABEL_NAMES, ArrayHeader, read_headers, read_rows

FREE_DIMENSION = 64  # what a free dimension behind the first becomes in generated samples, unless told
_LABELS_AT_ONCE = 4096
TOKEN_IDS = 8  # generated `…input_ids` lie below this: alphabets of DNA have little more


@dataclass(frozen=True)
class NpzSamples:
    """An `.npz` on disk, read a chunk at a time; each call of `batches` starts anew."""

    path: Path
    digest: str
    headers: list[ArrayHeader]
    synthetic: bool = False

    @property
    def count(self) -> int:
        """The number of samples."""
        return self.headers[0].shape[0]

    @property
    def inputs(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """Every array but the labels: (dtype, shape without the sample axis)."""
        return {
            header.name: (header.dtype_name, header.shape[1:])
            for header in self.headers
            if header.name != self.label_name
        }

    @property
    def label_name(self) -> str | None:
        """The array that holds the labels, if one does."""
        return label_array(self.headers)

    @property
    def labels(self) -> tuple[str, tuple[int, ...]] | None:
        """(dtype, shape without the sample axis) of the labels, if there are any."""
        return next(
            (
                (header.dtype_name, header.shape[1:])
                for header in self.headers
                if header.name == self.label_name
            ),
            None,
        )

    @property
    def numbered(self) -> bool:
        """Whether any sample can be read by its number: the arrays are not compressed."""
        return all(header.offset is not None for header in self.headers)

    def sample(self, index: int) -> tuple[Feeds, np.ndarray | None]:
        """One sample without a batch axis, and its label or None. Only where `numbered`."""
        feeds = {name: rows[index] for name, rows in self._rows.items() if name != self.label_name}
        return feeds, self.label(index)

    def label(self, index: int) -> np.ndarray | None:
        """One sample's label or None. Only where `numbered`."""
        return self._rows[self.label_name][index] if self.label_name else None

    def each_label(self) -> Iterator[np.ndarray]:
        """All labels in order, and no other array; nothing where there are none."""
        held = [header for header in self.headers if header.name == self.label_name]
        for rows in read_rows(self.path, held, _LABELS_AT_ONCE) if held else ():
            yield from next(iter(rows.values()))

    @cached_property
    def _rows(self) -> dict[str, FileRows]:
        return {
            header.name: FileRows(self.path, header.offset, header.dtype, header.shape)
            for header in self.headers
            if header.offset is not None
        }

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[Feeds, np.ndarray | None]]:
        """Feeds of at most `size` samples with their labels or None; at most `limit` samples in all."""
        left = self.count if limit is None else min(limit, self.count)
        for rows in read_rows(self.path, self.headers, max(1, min(size, left))):
            if left <= 0:
                return
            cut = {name: values[:left] for name, values in rows.items()}
            left -= len(next(iter(cut.values())))
            labels = cut.pop(self.label_name) if self.label_name else None
            yield cut, labels


@dataclass(frozen=True)
class SyntheticSamples:
    """Samples that a seed and a sample's number determine, one by one (PCG64)."""

    seed: int
    count: int
    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    synthetic: bool = True
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        cause = json.dumps(["synthetic-2", self.seed, self.count, sorted(self.inputs.items())])
        object.__setattr__(self, "digest", hashlib.sha256(cause.encode()).hexdigest())

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[Feeds, np.ndarray | None]]:
        """Feeds of at most `size` samples; there are no labels."""
        total = self.count if limit is None else min(limit, self.count)
        for start in range(0, total, size):
            rows = [self._sample(index) for index in range(start, min(start + size, total))]
            yield {name: np.stack([row[name] for row in rows]) for name in self.inputs}, None

    @property
    def labels(self) -> tuple[str, tuple[int, ...]] | None:
        """There are none."""
        return None

    @property
    def numbered(self) -> bool:
        """Any sample can be had by its number."""
        return True

    def sample(self, index: int) -> tuple[Feeds, np.ndarray | None]:
        """One sample without a batch axis; there are no labels."""
        return self._sample(index), None

    def label(self, index: int) -> np.ndarray | None:
        """There are none."""
        return None

    def _sample(self, index: int) -> Feeds:
        return {
            name: _generate(name, np.dtype(dtype), shape, np.random.default_rng([self.seed, index, number]))
            for number, (name, (dtype, shape)) in enumerate(sorted(self.inputs.items()))
        }


def open_samples(dataset: DatasetFiles) -> Samples:
    """An uploaded dataset, opened for reading.

    Raises:
        InvalidDataset: its first sample cannot be read.
    """
    if dataset.declared or dataset.format in ("tar", "parquet"):
        from workers.datasets.opening import records_of

        return records_of(dataset)
    path = next(file for file in sorted(dataset.root.rglob("*")) if file.is_file())
    return NpzSamples(path, dataset.digest, read_headers(path))


def synthetic_samples(
    signature: Mapping[str, Any], seed: int, count: int, dims: Mapping[str, int] | None = None
) -> Samples:
    """Seeded samples that fit a signature.

    Floats are standard normal, integers 0 or 1, except by name: `input_ids` below `TOKEN_IDS`, attention masks 1, token types 0.
    Where `is_batched`, the first axis counts samples; otherwise a sample is one whole set of inputs. A free dimension
    becomes what `dims` says for its symbolic name, else 1 if it is the first or called batch, else `FREE_DIMENSION`.

    Raises:
        SignatureMismatch: an input's dtype cannot be generated.
    """
    inputs = {}
    batched = is_batched(signature["inputs"])
    for entry in signature["inputs"]:
        if not _can_generate(entry["dtype"]):
            raise SignatureMismatch(
                f"samples of dtype {entry['dtype']} cannot be generated for input {entry['name']!r}",
                param=entry["name"],
                hint="upload a dataset and name it in the request",
            )
        inputs[entry["name"]] = (entry["dtype"], sample_shape(entry["shape"], batched, dims or {}))
    return SyntheticSamples(seed, count, inputs)


def is_batched(inputs: list[Mapping[str, Any]]) -> bool:
    """Whether the first axis of every input counts samples.

    Not so where an input is a scalar, where first axes are fixed at different sizes or some at more than 1 and some not
    at all, or where the name of a first axis stands on a later axis too: recurrent states have their batch there.
    """
    if not all(entry["shape"] for entry in inputs):
        return False
    first = {entry["shape"][0] for entry in inputs}
    later = {dim for entry in inputs for dim in entry["shape"][1:] if isinstance(dim, str)}
    fixed = {dim for dim in first if isinstance(dim, int)}
    if len(fixed) > 1 or first & later:
        return False
    return fixed <= {1} or first == fixed


def sample_shape(shape: list[Any], batched: bool, dims: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of one sample, free dimensions filled in; without the first axis where that counts samples."""
    whole = [_fill(dim, dims, first=index == 0) for index, dim in enumerate(shape)]
    return tuple(whole[1:] if batched else whole)


def label_array(headers: list[ArrayHeader]) -> str | None:
    """The name of the array that holds labels; where it is the only array, it is an input."""
    names = {header.name for header in headers}
    return next((name for name in LABEL_NAMES if name in names), None) if len(names) > 1 else None


def _fill(dim: Any, dims: Mapping[str, int], *, first: bool) -> int:
    if isinstance(dim, int):
        return dim
    if str(dim) in dims:
        return dims[str(dim)]
    return 1 if first or "batch" in str(dim).lower() else FREE_DIMENSION


def _can_generate(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "fiub"
    except TypeError:  # a type that numpy does not know itself
        return False


def _generate(name: str, dtype: np.dtype, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    if "mask" in name.lower():
        return np.ones(shape, dtype)
    if "token_type" in name.lower() or "segment" in name.lower():
        return np.zeros(shape, dtype)
    return random.integers(0, TOKEN_IDS if "input_ids" in name.lower() else 2, shape).astype(dtype)
