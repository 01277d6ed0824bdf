"""Samples out of records: some fields of each, decoded, transformed as the uploader declared, all of one shape."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any, Protocol, TypeVar

import numpy as np
from pydantic import TypeAdapter

from app.catalog.transforms import Fixed
from app.errors import InvalidDataset
from app.text import plain
from workers.assignment import DatasetFiles
from workers.context import Feeds
from workers.datasets.rows import stacked
from workers.datasets.tokenizing import Tokenizing, prepared
from workers.datasets.transforming import Value, transformed
from workers.npz import LABEL_NAMES

T = TypeVar("T")
_STEPS: TypeAdapter[list[Fixed]] = TypeAdapter(list[Fixed])


class Records(Protocol):
    """A file of samples as its format has it: named values."""

    @property
    def numbered(self) -> bool:
        """Whether any sample can be read by its number, by several processes at once."""
        ...

    @property
    def count(self) -> int:
        """The number of samples."""
        ...

    @property
    def sources(self) -> list[str]:
        """What a sample's values are called in the file."""
        ...

    @property
    def usual(self) -> dict[str, str]:
        """Arrays and their sources where the uploader names none."""
        ...

    def read(self, index: int, sources: Sequence[str]) -> dict[str, Value]:
        """Some values of a sample. Raises ValueError where one cannot be read."""
        ...

    def iterate(self, sources: Sequence[str]) -> Iterator[dict[str, Value]]:
        """The same of all samples in order."""
        ...

    def where(self, index: int) -> str:
        """A sample as a person finds it in the file."""
        ...


class RecordSamples:
    """See `context.NumberedSamples`; `sample` is for `numbered` ones alone.

    `files.declared`: `fields` {array: source}, `transforms` [see `app.catalog.transforms`].
    """

    synthetic = False

    def __init__(self, records: Records, files: DatasetFiles):
        """Raises InvalidDataset: a field is none of the file's, or the first sample cannot be read."""
        self.records, self.files = records, files
        self._steps = prepared(_STEPS.validate_python(files.declared.get("transforms", [])), files.root)
        self._fields: Mapping[str, str] = files.declared.get("fields") or records.usual
        for name, source in self._fields.items():
            if source not in records.sources:
                raise InvalidDataset(
                    f"the field {name!r} is to come from {source!r}; a sample has {_listed(records.sources)}",
                    param="fields",
                    hint="name what is in the file",
                )
        if not self._fields:
            raise InvalidDataset(
                f"nothing in the file is an array by itself; a sample has {_listed(records.sources)}",
                param="fields",
                hint="say which input is what: `fields` = `INPUT=SOURCE`",
            )
        self.label_name = next((name for name in LABEL_NAMES if name in self._fields), None)
        if len(self._fields) == 1:
            self.label_name = None
        self._sources = sorted(set(self._fields.values()))

    @property
    def numbered(self) -> bool:
        """Whether any sample can be read by its number."""
        return self.records.numbered

    @property
    def count(self) -> int:
        """The number of samples."""
        return self.records.count

    @property
    def digest(self) -> str:
        """Of the files and of how they are read: tokenizers are among the files, whatever model they came with."""
        if not self.files.declared:
            return self.files.digest
        cause: list[Any] = [self.files.digest, self.files.declared]
        if any(isinstance(step, Tokenizing) for step in self._steps):
            steps = [
                {key: value for key, value in step.items() if key != "model"}
                for step in self.files.declared["transforms"]
            ]
            cause = [self.files.digest, {**self.files.declared, "transforms": steps}, version("tokenizers")]
        return hashlib.sha256(json.dumps(cause, sort_keys=True).encode()).hexdigest()

    @property
    def inputs(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """By name: (dtype, shape), as the first sample has them."""
        return {name: kind for name, kind in self._kinds.items() if name != self.label_name}

    @property
    def labels(self) -> tuple[str, tuple[int, ...]] | None:
        """(dtype, shape) of the labels, as the first sample has them."""
        return None if self.label_name is None else self._kinds[self.label_name]

    def sample(self, index: int) -> tuple[Feeds, np.ndarray | None]:
        """One sample without a batch axis, and its label or None."""
        return self._split(self._held_to_first(self._arrays(index), index))

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[Feeds, np.ndarray | None]]:
        """Feeds of at most `size` samples with their labels or None; at most `limit` samples in all.

        Raises:
            InvalidDataset: a sample cannot be read, or has another shape than the first; it is named.
        """
        total = self.count if limit is None else min(limit, self.count)
        found: list[tuple[Feeds, np.ndarray | None]] = []
        for index, arrays in zip(range(total), self._all(), strict=False):
            found.append(self._split(self._held_to_first(arrays, index)))
            if len(found) == size or index == total - 1:
                yield stacked(found)
                found = []

    def label(self, index: int) -> np.ndarray | None:
        """One sample's label or None."""
        if self.label_name is None:
            return None
        source = self._fields[self.label_name]
        with _Named(self.records, index):
            return self._label(self.label_name, self.records.read(index, [source])[source])

    def each_label(self) -> Iterator[np.ndarray]:
        """All labels in order, and nothing else of the samples; nothing where there are none."""
        if self.label_name is not None:
            name, source = self.label_name, self._fields[self.label_name]
            yield from self._each([source], lambda values: self._label(name, values[source]))

    def _label(self, name: str, value: Value) -> np.ndarray:
        steps = [step for step in self._steps if step.field == name]
        return transformed({name: value}, steps, name)[name]

    @cached_property
    def _kinds(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {name: (_kind(values), values.shape) for name, values in self._arrays(0).items()}

    def _arrays(self, index: int) -> dict[str, np.ndarray]:
        with _Named(self.records, index):
            return self._transformed(self.records.read(index, self._sources))

    def _all(self) -> Iterator[dict[str, np.ndarray]]:
        return self._each(self._sources, self._transformed)

    def _each(self, sources: Sequence[str], taken: Callable[[dict[str, Value]], T]) -> Iterator[T]:
        values = self.records.iterate(sources)
        for index in range(self.count):
            with _Named(self.records, index):
                if (one := next(values, None)) is None:
                    raise ValueError("the file ends before it")
                yield taken(one)

    def _transformed(self, values: Mapping[str, Value]) -> dict[str, np.ndarray]:
        named = {name: values[source] for name, source in self._fields.items()}
        return transformed(named, self._steps, self.label_name)

    def _held_to_first(self, arrays: dict[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
        for name, values in arrays.items():
            dtype, shape = self._kinds[name]
            if values.shape != shape or _kind(values) != dtype:
                raise InvalidDataset(
                    f"{self.records.where(index)}: {name!r} is {_kind(values)} {list(values.shape)}, "
                    f"of sample 0 it is {dtype} {list(shape)}",
                    param=name,
                    hint="upload the data with transforms that make them alike: `resize`, `grayscale`, `cast`",
                )
        return arrays

    def _split(self, arrays: dict[str, np.ndarray]) -> tuple[Feeds, np.ndarray | None]:
        return arrays, arrays.pop(self.label_name) if self.label_name is not None else None


class _Named:
    """Says of which sample a ValueError inside the block is."""

    def __init__(self, records: Records, index: int):
        self._records, self._index = records, index

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError):
            raise InvalidDataset(
                f"{self._records.where(self._index)} cannot be read: {plain(str(error), 600)}",
                hint="mend or remove the sample",
            ) from error


def _kind(values: np.ndarray) -> str:
    return "string" if values.dtype.kind in "SU" else values.dtype.name


def _listed(names: Sequence[str]) -> str:
    return ", ".join(plain(name, 60) for name in names[:20]) + (" …" if len(names) > 20 else "")
