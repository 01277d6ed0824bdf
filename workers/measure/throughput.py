"""Throughput with several requests under way, of engines that offer more than one (`base.Concurrent`).

An engine whose threads are arranged for several requests side by side is slow on each: one run after another would
show half of it. Its blocks come after those of latency in the same launch, in the same ABBA turns and on the same CPUs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from workers.measure.launched import Launched
from workers.measure.statistics import median_interval

SHARE = 0.25  # of the seconds, where an engine offers more than one request
LEAST_SECONDS = 0.05  # a block
TURNS = 4  # blocks a launch


@dataclass
class Rates:
    """What was seen of one engine with `requests` runs under way: runs a second, [launches][blocks]."""

    requests: int = 1
    blocks: list[list[float]] = field(default_factory=list)
    runs: int = 0

    @property
    def runs_per_s(self) -> float:
        """The median of the blocks."""
        return float(median(rate for launch in self.blocks for rate in launch))

    def described(self, batch: int, seed: int) -> dict[str, Any] | None:
        """{low, high: of samples a second, where a run holds `batch`; count: runs}; None where no block was timed."""
        if not self.blocks:
            return None
        interval = median_interval(batch * np.array(self.blocks), seed)
        return {"low": interval.low, "high": interval.high, "count": self.runs}


def seconds_for_requests(seconds: float, *requests: int) -> float:
    """How many of the seconds go to such blocks: none where every engine takes a single request."""
    return SHARE * seconds if max(requests) > 1 else 0.0


def trade_requests(sides: Sequence[tuple[Rates, Launched]], seconds: float, *, swapped: bool) -> None:
    """The blocks of one launch of two engines, ABBA or BAAB, `seconds` in all; one that takes a single request has none.

    Raises:
        BurnishError: an engine's own error, or the death of its process.
    """
    for rates, _ in sides:
        if rates.requests > 1:
            rates.blocks.append([])
    for letter in "BAAB" if swapped else "ABBA":
        rates, process = sides["AB".index(letter)]
        if rates.requests > 1:
            block = process.tell("throughput", seconds=max(seconds / TURNS, LEAST_SECONDS))
            rates.runs += block["runs"]
            rates.blocks[-1].append(block["runs"] * 1e9 / block["ns"])
