"""Datasets as batches on the device: shuffled, shared out over processes, read ahead."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.catalog.pass_params.training import LoaderParams
from app.catalog.transforms import Random
from app.errors import InvalidDataset
from workers.datasets.rows import write_rows
from workers.training.augment import Augment
from workers.training.data import reopened
from workers.training.loader import Loader
from workers.training.reading import Reading
from workers.training.task import STAGE, Batch


class DatasetBatches:
    """See `task.Batches`."""

    def __init__(
        self,
        reading: Reading,
        labels: Mapping[str, Any] | None,
        *,
        synthetic: bool,
        batch_size: int,
        seed: int,
        rank: int,
        world: int,
        loader: Loader,
        held: ExitStack,
    ):
        self._reading, self._labels, self.synthetic = reading, labels, synthetic
        self._size, self._seed, self._rank, self._world = batch_size, seed, rank, world
        self._loader, self._held = loader, held

    @property
    def count(self) -> int:
        """See `task.Batches`."""
        return self._reading.count

    @property
    def labels(self) -> Mapping[str, Any] | None:
        """See `task.Batches`."""
        return self._labels

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """See `task.Batches`."""
        order = np.random.default_rng([self._seed, number]).permutation(self.count)
        share = slice(self._size * self._rank // self._world, self._size * (self._rank + 1) // self._world)
        steps = range(first, self.count // self._size)
        wanted = ((number, order[step * self._size : (step + 1) * self._size][share]) for step in steps)
        yield from self._loader.read(wanted)

    def once(self) -> Iterator[Batch]:
        """See `task.Batches`."""
        begin, end = (self.count * rank // self._world for rank in (self._rank, self._rank + 1))
        size = max(1, self._size // self._world)
        yield from self._loader.read(
            (0, np.arange(start, min(start + size, end))) for start in range(begin, end, size)
        )

    def facts(self) -> dict[str, Any]:
        """See `task.Batches`."""
        return self._loader.facts()

    def close(self) -> None:
        """See `task.Batches`."""
        self._loader.close()
        self._held.close()


def open_batches(
    described: dict[str, Any],
    *,
    inputs: Sequence[Mapping[str, Any]],
    batch_size: int,
    seed: int,
    rank: int,
    world: int,
    device: torch.device,
    augment: Sequence[Random],
    loader: LoaderParams,
    classes: int | None = None,
    memory_bytes: int = 0,
) -> DatasetBatches:
    """A described dataset as batches for one process of several (see `data.describe`, `task.Batches`).

    `inputs` is the network's signature; `classes` how many its output tells apart, which mixup needs to know; `memory_bytes` what
    all processes may hold together, without which no samples are kept in memory but where `loader` says so.

    Raises:
        SignatureMismatch: an input has no array in the dataset, or one that does not fit.
        InvalidDataset: labels are text.
    """
    with ExitStack() as held:
        samples = reopened(described)
        if not samples.numbered:
            folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
            samples = write_rows(samples, folder)
        labels = described["labels"]
        if (
            labels is not None
            and np.dtype(object if labels["dtype"] == "string" else labels["dtype"]).kind not in "fiub"
        ):
            raise InvalidDataset(
                "the labels are text; training takes numbers", stage=STAGE, param="labels",
                hint="number the classes from 0, in the order of the model's output",
            )  # fmt: skip
        reading = Reading(samples, inputs, Augment(augment, seed, classes))
        if loader.cache == "memory":
            reading.keep_in_memory()
        return DatasetBatches(
            reading, labels, synthetic=samples.synthetic, batch_size=batch_size, seed=seed, rank=rank, world=world,
            loader=Loader(reading, device, loader, world, memory_bytes), held=held.pop_all(),
        )  # fmt: skip
