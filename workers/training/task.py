"""What is trained, and how wrong it is: the part that differs between `finetune`, `distill` and `qat`. The loop knows no more."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

STAGE = "training"  # of every problem that training finds


@dataclass(frozen=True)
class Batch:
    """Samples on the device that trains. `inputs` are in the order of the network's; the first axis counts samples.

    `labels` are classes (int64), numbers (float32) of the output's shape, or shares of classes (float32) where samples were
    blended; None where there are none. `indices` number the samples in the dataset.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor | None
    indices: Tensor


class Task(Protocol):
    """Built anew in every process from a `TrainingJob` (`tasks/NAME.py`: `build(job, device) -> Task`)."""

    @property
    def network(self) -> nn.Module:
        """What is trained, on the device: takes inputs by position, gives a tree of tensors. It is left with the best weights."""
        ...

    @property
    def inputs(self) -> Sequence[Mapping[str, Any]]:
        """The network's inputs in order: {name, dtype, shape}; the first axis is free."""
        ...

    @property
    def outputs(self) -> Sequence[Mapping[str, Any]]:
        """The same of the tensors that it gives, in the order of their tree."""
        ...

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The mean over the batch's samples, and its parts by name. Called inside autocast, right after the network."""
        ...

    def helpers(self) -> Iterable[nn.Parameter]:
        """Parameters that are trained besides the network's, and thrown away: projections of features."""
        ...

    def before_step(self, step: int, steps: int) -> None:
        """Told before each step of the optimizer: a task may freeze something late."""
        ...


class Batches(Protocol):
    """A dataset as batches for one process of several: its contiguous share of each."""

    @property
    def count(self) -> int:
        """The number of samples, over all processes."""
        ...

    @property
    def labels(self) -> Mapping[str, Any] | None:
        """{dtype, shape} of the labels, without the sample axis; None where there are none."""
        ...

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, from step `first` on, shuffled; an incomplete one at the end is left out."""
        ...

    def once(self) -> Iterator[Batch]:
        """This process's share of all samples in order, none left out and none twice; the last batch may be smaller."""
        ...

    def facts(self) -> dict[str, Any]:
        """What reading them was like so far."""
        ...

    def close(self) -> None:
        """End the processes that read."""
        ...


class TrainingJob(BaseModel):
    """Everything that a process needs to train, as JSON: the processes of one training share nothing else but the group."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    task: str  # a file of `tasks`
    program: Path  # `.pt2`: the network as the recipe has it so far
    params: dict[str, Any]  # of the pass
    seed: int
    device: str  # cpu, cuda
    train: dict[str, Any]  # see `data.describe`: enough to open the dataset in another process
    validation: dict[str, Any] | None = None
    teacher: dict[str, Any] | None = None  # {root, entry, format, declared} of a `ModelHandle`
    extra: dict[str, Any] = {}  # what one task needs besides
    checkpoint: Path | None = None  # a folder that an earlier attempt kept
    checkpoint_seconds: float = 300.0
    memory_bytes: int = 0  # the most that its processes may hold together; 0: not told
    out: Path  # an empty folder: `trained.safetensors`, `report.json`, `checkpoints/NNNN/`, `scalars/`


def device_of(name: str, local_rank: int = 0) -> torch.device:
    """The device of a process."""
    return torch.device("cuda", local_rank) if name == "cuda" else torch.device("cpu")
