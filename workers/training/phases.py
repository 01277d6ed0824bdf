"""What a training is doing, said to whoever measures it; by default to nobody."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from workers.training.task import Batch, Batches, Task

PhaseName = Literal["loader", "forward", "loss", "backward", "optimizer"]


class Phases(Protocol):
    """Is told by `loop.Loop` where a step begins, and what it is made of. It may look, and must change nothing."""

    def begin(self, task: "Task") -> None:
        """Before the first step, and before anything is made of the task's network."""
        ...

    def of(self, name: PhaseName) -> AbstractContextManager[object]:
        """The block is part of this phase. Phases follow one another; a step may have one several times."""
        ...

    def reading(self, batches: "Batches", number: int, first: int) -> Iterator["Batch"]:
        """`batches.epoch(number, first)`; from one batch to the next is a step, which begins with waiting for it."""
        ...


class Unmeasured:
    """See `Phases`: nobody looks, and it costs no more than a call."""

    _nothing = nullcontext()

    def begin(self, task: "Task") -> None:
        """See `Phases.begin`."""

    def of(self, name: PhaseName) -> AbstractContextManager[object]:
        """See `Phases.of`."""
        return self._nothing

    def reading(self, batches: "Batches", number: int, first: int) -> Iterator["Batch"]:
        """See `Phases.reading`."""
        return batches.epoch(number, first)


UNMEASURED = Unmeasured()
