"""Batches read ahead by other processes, or not, and how long the device waited for them."""

import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from math import ceil
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from app.catalog.pass_params.training import LoaderParams
from workers.problems import ProcessDied, error_of
from workers.training.reading import Read, Reading, Wanted
from workers.training.task import STAGE, Batch

_MEASURED = 8  # batches, the first of which does not count
_WAITS = 0.05  # the share of time waited from which reading ahead is worth a process, and keeping samples their memory
_KEPT_SHARE = 0.25  # of the memory that is left to the job: the network may be scored and written yet, and validated on as many


class Loader:
    """Reads batches on request, in order. The samples are the same whoever reads them, so who does may change in between."""

    def __init__(
        self, reading: Reading, device: torch.device, params: LoaderParams, world: int, memory_bytes: int
    ):
        self._reading, self._device, self._params = reading, device, params
        self._world, self._memory_bytes = world, memory_bytes
        self._most = max(0, len(os.sched_getaffinity(0)) // world - (device.type == "cpu"))
        self._picked = params.mode == "fixed" or (params.workers is not None and params.cache != "auto")
        self._workers = params.workers or 0
        self._loader: DataLoader[Any] | None = None
        self._keys = _Keys()
        self._waited = self._used = 0.0
        self._samples = 0
        self._told: list[str] = []
        if not _can_share():
            self._most = 0
            if self._workers:
                self._workers = 0
                self._told.append(
                    "no process reads ahead: this worker's sandbox has no namespaces, so its jobs have no memory to share."
                )

    def read(self, wanted: Iterable[Wanted]) -> Iterator[Batch]:
        """The batches, on the device. Raises what is wrong with a sample, by its number."""
        keys = iter(wanted)
        if not self._picked:
            yield from self._timed(map(self._reading.__getitem__, islice(keys, _MEASURED)), measure=True)
        yield from self._timed(self._batches(keys))

    def facts(self) -> dict[str, Any]:
        """{workers, prefetch, samples_per_second, waited, told}: `waited` is the share of time that the device waited."""
        total = self._waited + self._used
        rate, waited = (self._samples / total, self._waited / total) if total else (0.0, 0.0)
        return {
            "workers": self._workers,
            "prefetch": self._params.prefetch if self._workers else 0,
            "samples_per_second": round(rate, 1),
            "waited": round(waited, 4),
            "told": " ".join([*self._told, self._advice(rate, waited)]),
        }

    def _advice(self, rate: float, waited: float) -> str:
        text = f"{rate:.0f} samples/s, {waited:.0%} of the time waited for samples"
        if waited < _WAITS:
            return f"{text}."
        if self._workers < self._most:
            return f"{text}; try loader.workers={min(self._most, max(1, 2 * self._workers))}."
        if self._params.cache == "none":
            return f"{text}; try loader.cache=disk."
        return f"{text}; no processor is left to read ahead: fewer random transforms, or more processors, would help."

    def close(self) -> None:
        """End the processes that read."""
        self._loader = None

    def _timed(self, batches: Iterator[Read | dict[str, Any]], *, measure: bool = False) -> Iterator[Batch]:
        times = []
        while True:
            since = time.perf_counter()
            if (found := next(batches, None)) is None:
                break
            if isinstance(found, dict):
                raise error_of(found)
            batch = self._on_device(found)
            ready = time.perf_counter()
            yield batch
            done = time.perf_counter()
            self._waited, self._used = self._waited + ready - since, self._used + done - ready
            self._samples += len(batch.indices)
            times.append((ready - since, done - ready))
        if measure and len(times) > 1:
            self._pick(sum(one for one, _ in times[1:]), sum(two for _, two in times[1:]))

    def _pick(self, reading: float, using: float) -> None:
        self._picked = True
        share = reading / (reading + using)
        if share < _WAITS:
            return
        if self._params.cache == "auto" and self._fits_in_memory():
            self._reading.keep_in_memory()
            self._told.append(f"reading took {share:.0%} of the time, so samples are kept in memory.")
        if self._params.workers is not None or self._most == 0:
            return
        self._workers = max(1, min(self._most, ceil(reading / max(using, 1e-9))))
        self._told.append(
            f"reading took {share:.0%} of the time without further processes, so {self._workers} read ahead."
        )

    def _fits_in_memory(self) -> bool:
        """Whether the samples fit into what the job may hold besides what it does: each process that trains keeps its own."""
        held = int(psutil.Process().memory_info().rss)
        left = self._memory_bytes - self._world * held
        return self._world * self._reading.stored_bytes <= _KEPT_SHARE * left

    def _batches(self, keys: Iterator[Wanted]) -> Iterator[Read | dict[str, Any]]:
        if self._workers == 0:
            yield from map(self._reading.__getitem__, keys)
            return
        if self._loader is None:
            self._loader = DataLoader(
                self._reading,
                batch_size=None,
                sampler=self._keys,
                num_workers=self._workers,
                prefetch_factor=self._params.prefetch,
                persistent_workers=True,
                multiprocessing_context="fork",
                collate_fn=_as_arrays,
            )
        self._keys.now = keys
        try:
            yield from map(_as_tensors, self._loader)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ProcessDied(
                "a process that reads samples died",
                stage=STAGE,
                hint="it may have used more memory than there is: use fewer `loader.workers`, or less `prefetch`",
            ) from error

    def _on_device(self, read: Read) -> Batch:
        inputs, labels, indices = read
        return Batch(
            tuple(map(self._moved, inputs)), None if labels is None else self._moved(labels), indices
        )

    def _moved(self, values: Tensor) -> Tensor:
        """Values on the device; to a GPU from pinned memory, while it still computes."""
        if self._device.type == "cuda":
            return values.pin_memory().to(self._device, non_blocking=True)
        return values


def _can_share() -> bool:
    """Whether processes can share locks: they lie in /dev/shm, which a job has only in a mount namespace of its own."""
    try:
        multiprocessing.get_context("fork").Lock()
    except OSError:
        return False
    return True


def _as_arrays(read: Any) -> Any:
    """A batch as it goes through a pipe: tensors would be handed over by a socket in the folder of temporary files, whose path
    may be longer than a socket's can be, and which a job may not have; the batch is then lost without a word."""
    if isinstance(read, dict):
        return read
    inputs, labels, indices = read
    return tuple(one.numpy() for one in inputs), None if labels is None else labels.numpy(), indices.numpy()


def _as_tensors(read: Any) -> Read | dict[str, Any]:
    if isinstance(read, dict):
        return read
    inputs, labels, indices = read
    found = None if labels is None else torch.from_numpy(labels)
    return tuple(torch.from_numpy(one) for one in inputs), found, torch.from_numpy(indices)


class _Keys:
    """What a `DataLoader` shall read next, set anew for each pass over it."""

    now: Iterator[Wanted] = iter(())

    def __iter__(self) -> Iterator[Wanted]:
        return self.now
