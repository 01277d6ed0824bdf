"""A node's place among those that train together, as its child sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Seat:
    """`number` counts from 0, the node whose outputs are the result; `folder` is where the relay's socket lies."""

    number: int
    count: int
    folder: Path


class Nodes(Protocol):
    """How a pass gets other workers to train with."""

    def gather(self, counts: Sequence[int]) -> Seat:
        """Wait for as many nodes as the first of these says; after a time, for one of the others at least.

        Raises:
            BurnishError: this worker trains with no others.
        """
        ...

    def dismiss(self) -> None:
        """They are not needed any more."""
        ...


class PartDone(Exception):
    """This node is not the first, and its part of the training is done: the result is elsewhere."""
