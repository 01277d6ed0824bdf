"""Times that are computed: of networks that are not there, as kernels take them, and of those that are, from their operations."""

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from math import ceil, exp
from typing import Any

import torch
from torch import fx

from app.measurements.compare import Interval
from workers.model_handle import ModelHandle
from workers.surgery.channels import Coupling
from workers.surgery.choice import Choice
from workers.surgery.counting import layers, totals
from workers.torch.lift import lift
from workers.torch.program import load_program

KEEP = 0.1
INPUTS, OUTPUTS = 3, 10
WIDTHS, PLACES = (16, 32, 48, 64, 96, 128), (1, 4, 16, 49, 196)


class Simulated:
    """Convolutions in a row, of some widths that the seed draws. Units are channels; what they are worth is drawn too.

    An output block of `block` channels is computed whole, channels that are no multiple of 4 take up to twice as long, a share of the time
    passes whatever the widths, and each measurement strays by `noise` (a standard deviation of its logarithm).
    """

    def __init__(
        self, seed: int, round_to: int, *, widths: Sequence[int] = (), block: int = 16, noise: float = 0.0
    ):
        self._random = random.Random(seed)
        draw = self._random
        self.widths = tuple(widths) or tuple(draw.choice(WIDTHS) for _ in range(draw.randint(3, 9)))
        self._places = [draw.choice(PLACES) for _ in range(len(self.widths) + 1)]
        self._floor, self._odd = draw.uniform(0, 0.25), draw.uniform(1, 2)
        self._round_to, self._block, self._noise = round_to, block, noise
        starts = [1 + sum(self.widths[:number]) for number in range(len(self.widths))]
        layers = {
            f"layer{number}": torch.arange(start, start + width)
            for number, (start, width) in enumerate(zip(starts, self.widths, strict=True))
        }
        self._layer = {
            unit: number for number, units in enumerate(layers.values()) for unit in units.tolist()
        }
        scales = [exp(draw.gauss(0, 1)) for _ in self.widths]
        scores = {unit: scales[number] * exp(draw.gauss(0, 1)) for unit, number in self._layer.items()}
        trace: Any = None  # a choice asks nothing of it
        coupling = Coupling(trace, tuple(self._layer), layers, tuple(layers.values()))
        self.choice = Choice(coupling, scores, per_layer=False, keep=KEEP, round_to=round_to)
        self.measured = 0

    def flops(self, units: Iterable[int]) -> float:
        """The share of the operations that is left."""
        return self._operations(self._left(units)) / self._operations(self.widths)

    def latency(self, units: Iterable[int]) -> float:
        """The true share of the latency that is left."""
        return self._latency(self._left(units))

    def time(self, units: Iterable[int]) -> Interval:
        """The share as it is measured, with the interval of 95% that this noise has."""
        self.measured += 1
        value = self.latency(units) * exp(self._random.gauss(0, self._noise))
        return Interval(value, value * exp(-2 * self._noise), value * exp(2 * self._noise))

    def possible(self, most: int = 20_000) -> Iterable[float]:
        """The shares of all networks that rounding and `KEEP` allow; of more than `most`, of so many drawn at random."""
        allowed = [
            [
                left
                for left in range(max(1, ceil(KEEP * width)), width + 1)
                if left == width or left % self._round_to == 0
            ]
            for width in self.widths
        ]
        count = 1
        for widths in allowed:
            count *= len(widths)
        if count <= most:
            return map(self._latency, itertools.product(*allowed))
        return (self._latency([self._random.choice(widths) for widths in allowed]) for _ in range(most))

    def _left(self, units: Iterable[int]) -> list[int]:
        widths = list(self.widths)
        for unit in units:
            widths[self._layer[unit]] -= 1
        return widths

    def _pairs(self, widths: Sequence[int]) -> Iterable[tuple[int, int, int]]:
        sides = (INPUTS, *widths, OUTPUTS)
        return zip(self._places, sides, sides[1:], strict=False)

    def _operations(self, widths: Sequence[int]) -> int:
        return sum(places * before * after for places, before, after in self._pairs(widths))

    def _latency(self, widths: Sequence[int]) -> float:
        return self._floor + (1 - self._floor) * self._work(widths) / self._work(self.widths)

    def _work(self, widths: Sequence[int]) -> float:
        return sum(
            places
            * (ceil(after / self._block) * self._block * before * (self._odd if after % 4 else 1) + 2 * after)
            for places, before, after in self._pairs(widths)
        )


class OfOperations:
    """A target whose latency follows from the operations: by default a power of them, and a floor that no pruning takes away."""

    def __init__(
        self, given: ModelHandle, latency: Callable[[float], float] = lambda flops: 0.1 + 0.9 * flops**0.7
    ):
        self._given, self._latency = operations(given), latency
        self.tried: list[float] = []

    def share(self, candidate: ModelHandle) -> Interval:
        """See `context.Timing`."""
        value = self._latency(operations(candidate) / self._given)
        self.tried.append(value)
        return Interval(value, value * 0.99, value * 1.01)


def operations(handle: ModelHandle) -> int:
    """The floating point operations of a program."""
    program = load_program(handle.path)
    network = lift(program.program)
    assert isinstance(network, fx.GraphModule)
    return totals(layers(network, program.inputs))[1]
