"""How a share of the latency is looked for, where units that go together are coarse."""

from typing import Any

import pytest

from app.errors import IncompatibleRecipe
from app.measurements.compare import Interval
from workers.surgery.targets import Reached, by_latency


class Coarse:
    """A hundred units that go in portions: what is left is a multiple."""

    order = tuple(range(100))

    def __init__(self, portion: int):
        self._portion = portion

    def first(self, count: int) -> set[int]:
        return set(range(count // self._portion * self._portion))


def looked_for(
    share: float, portion: int, power: float, floor: float = 0.0
) -> tuple[Reached, list[dict[str, Any]]]:
    """What was found where latency is a power of the operations, above a floor, and the tries."""
    choice: Any = Coarse(portion)
    tries: list[dict[str, Any]] = []

    def cost(units: set[int]) -> float:
        return 1 - len(units) / 101

    def time(units: set[int]) -> Interval:
        value = floor + (1 - floor) * cost(units) ** power
        return Interval(value, value, value)

    return by_latency(choice, cost, time, share, tries.append), tries


@pytest.mark.parametrize("power", [0.5, 0.8, 1.0, 2.0])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_lands_within_the_tolerance_where_units_are_fine(share: float, power: float):
    reached, tries = looked_for(share, 1, power)

    assert abs(reached.share / share - 1) <= 0.05
    assert len(tries) <= 5


@pytest.mark.parametrize("power", [0.5, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("portion", [3, 8, 13, 50])
def test_leaves_the_nearest_that_is_faster_where_none_is_near(portion: int, power: float):
    reached, tries = looked_for(0.6, portion, power)

    possible = [(1 - gone / 101) ** power for gone in range(0, 101, portion)]
    near = [one for one in possible if abs(one / 0.6 - 1) <= 0.05]
    nearest = near or [max(one for one in possible if one < 0.6)]
    assert any(reached.share == pytest.approx(one) for one in nearest)
    assert len({one["flops"] for one in tries}) == len(tries)


def test_tells_the_least_latency_where_none_is_fast_enough():
    with pytest.raises(IncompatibleRecipe, match=r"0\.6 of the latency is out of reach: 0\.703 is the least"):
        looked_for(0.6, 1, 1.0, floor=0.7)


def test_goes_on_where_fewer_operations_are_not_faster():
    """As where kernels compute some widths better than others."""
    choice: Any = Coarse(1)

    def cost(units: set[int]) -> float:
        return 1 - len(units) / 101

    def time(units: set[int]) -> Interval:
        flops = cost(units)
        value = flops if flops < 0.45 else 0.8 + 0.02 * (0.65 - flops) if flops < 0.7 else flops**0.5
        return Interval(value, value, value)

    assert by_latency(choice, cost, time, 0.4, lambda _: None).share == pytest.approx(0.4, rel=0.05)
    assert by_latency(choice, cost, time, 0.7, lambda _: None).share < 0.46
