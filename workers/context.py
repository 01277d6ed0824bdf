"""What a pass may touch besides the model: a folder, data, seeds, and a way to say how it goes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from app.measurements.compare import Interval
from workers.nodes.seat import Nodes
from workers.training.phases import UNMEASURED, Phases

if TYPE_CHECKING:
    from workers.model_handle import ModelHandle

Feeds = dict[str, np.ndarray]
Stored = Callable[[str, Mapping[str, Any], Callable[[Path], dict[str, Any]]], Path]  # see `Steps.stored`


class Samples(Protocol):
    """A dataset, read a piece at a time in constant memory."""

    @property
    def digest(self) -> str:
        """The digest of the dataset's tree, or of what generated it."""
        ...

    @property
    def count(self) -> int:
        """The number of samples."""
        ...

    @property
    def inputs(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """By name: (dtype, shape without the sample axis)."""
        ...

    @property
    def labels(self) -> tuple[str, tuple[int, ...]] | None:
        """(dtype, shape without the sample axis) of the labels, if there are any."""
        ...

    @property
    def synthetic(self) -> bool:
        """Whether it was generated and says nothing about real data."""
        ...

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[Feeds, np.ndarray | None]]:
        """Feeds of at most `size` samples (first axis), with their labels or None; at most `limit` samples in all."""
        ...


class NumberedSamples(Samples, Protocol):
    """A dataset of which any sample can be read by its number, by several processes at once."""

    def sample(self, index: int) -> tuple[Feeds, np.ndarray | None]:
        """One sample without a batch axis, and its label or None."""
        ...


@dataclass(frozen=True)
class Aside:
    """Files that a pass left besides the model: each becomes an artifact."""

    step: str
    root: Path


class Checkpoint(Protocol):
    """Where a long step is kept half done, so that another attempt, on whatever worker, goes on from there."""

    def last(self) -> Path | None:
        """The folder that was kept last, not to be written to; None where there is none."""
        ...

    def keep(self, folder: Path) -> None:
        """Keep this folder instead of what was there. Its files are never written to again: the next one is another."""
        ...


class NoCheckpoint:
    """Nothing is kept: outside of a job."""

    def last(self) -> Path | None:
        """See `Checkpoint.last`."""
        return None

    def keep(self, folder: Path) -> None:
        """See `Checkpoint.keep`."""


class Timing(Protocol):
    """How long a candidate takes on the job's target."""

    def share(self, candidate: "ModelHandle") -> Interval:
        """Its latency as a share of that of the model that the pass was given, measured in turns, with its interval of 95%."""
        ...


@dataclass
class PassContext:
    """Handed to every pass. `out` is an empty folder for the new model's files, `aside` one for what the user may want to
    have besides (together an artifact of kind `training`), `work` one for what nobody needs afterwards.
    """

    out: Path
    seed: int = 0
    samples: Mapping[str, Samples] = field(default_factory=dict)  # by role: calibration, train, …
    teacher: "ModelHandle | None" = None  # what the recipe names, else the job's subject
    timing: Timing | None = None  # where the pass chooses by latency
    device: str = "cpu"  # where heavy work may be done: cuda where the attempt has a GPU
    checkpoint: Checkpoint = field(default_factory=NoCheckpoint)
    checkpoint_seconds: float = 300.0
    memory_bytes: int = 0  # the most that the attempt may hold; 0: not told
    aside: Path | None = None
    work: Path | None = None
    nodes: Nodes | None = None  # where a training may take other workers
    phases: Phases = UNMEASURED  # who is told what the steps of a training are made of
    stored: Stored | None = (
        None  # a step inside this one, whose files are kept under the key of its whole cause
    )
    report: Callable[[int, int, str], None] = lambda done, total, message: None
    warnings: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Say how it went, for the report."""
        self.told.append(text)

    def warn(self, text: str) -> None:
        """Say something that the user must read beside the result."""
        self.warnings.append(text)
