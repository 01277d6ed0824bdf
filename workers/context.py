"""What a pass may touch besides the model: a folder, data, seeds, and a way to say how it goes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Feeds = dict[str, np.ndarray]


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
    def synthetic(self) -> bool:
        """Whether it was generated and says nothing about real data."""
        ...

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[Feeds, np.ndarray | None]]:
        """Feeds of at most `size` samples (first axis), with their labels or None; at most `limit` samples in all."""
        ...


@dataclass
class PassContext:
    """Handed to every pass. `out` is an empty folder for the new model's files."""

    out: Path
    seed: int = 0
    samples: Mapping[str, Samples] = field(default_factory=dict)  # by role: calibration, train, …
    report: Callable[[int, int, str], None] = lambda done, total, message: None
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def warn(self, text: str) -> None:
        """Say something that the user must read beside the result."""
        self.warnings.append(text)
