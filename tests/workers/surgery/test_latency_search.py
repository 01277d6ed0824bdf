"""How a share of the latency is looked for: where units are fine, where they are coarse, where kernels leap, where times are noisy."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from app.errors import IncompatibleRecipe
from app.measurements.compare import Interval
from tests.workers.surgery.simulated import Simulated
from workers.surgery.channels import Coupling
from workers.surgery.choice import Choice
from workers.surgery.latency_search import MOST_MEASUREMENTS, TOLERANCE, Found, Network
from workers.surgery.targets import by_latency

UNITS = 100
NOISE = 0.01
Tries = list[dict[str, Any]]


def one_layer(portion: int) -> Choice:
    """A hundred channels of which a multiple of `portion` stays, one at least."""
    sets = torch.arange(1, UNITS + 1)
    trace: Any = None
    coupling = Coupling(trace, tuple(sets.tolist()), {"layer": sets}, (sets,))
    return Choice(
        coupling, {unit: float(unit) for unit in sets.tolist()}, per_layer=False, keep=0, round_to=portion
    )


def cost(units: set[int]) -> float:
    return 1 - len(units) / UNITS


def looked_for(share: float, portion: int, latency: Callable[[float], float]) -> tuple[Found, Tries]:
    """What was found where latency follows from the operations, and what was measured."""
    tries: Tries = []

    def time(units: set[int]) -> Interval:
        value = latency(cost(units))
        return Interval(value, value, value)

    return by_latency(one_layer(portion), cost, time, share, tries.append), tries


def within(value: float, share: float) -> bool:
    return abs(value / share - 1) <= TOLERANCE


@pytest.mark.parametrize("power", [0.5, 0.8, 1.0, 2.0])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_lands_within_the_tolerance_where_units_are_fine(share: float, power: float):
    found, tries = looked_for(share, 1, lambda flops: flops**power)

    assert found.met
    assert within(found.network.share.value, share)
    assert len(tries) <= 6, "the last of them twice"


@pytest.mark.parametrize("power", [0.5, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("portion", [3, 8, 13, 30])
def test_leaves_the_nearest_that_is_faster_where_none_is_near(portion: int, power: float):
    found, tries = looked_for(0.59, portion, lambda flops: flops**power)

    possible = [1.0, *((left / UNITS) ** power for left in range(portion, UNITS + 1, portion))]
    near = [one for one in possible if within(one, 0.59)]
    nearest = near or [max((one for one in possible if one < 0.59), default=min(possible))]
    assert any(found.network.share.value == pytest.approx(one) for one in nearest)
    assert found.met == bool(near)
    if not near:
        assert found.slower is not None
        assert found.slower.share.value == pytest.approx(min(one for one in possible if one > 0.59))
        assert len({one["flops"] for one in tries}) == len(tries), "what is not near is measured once"


def test_tells_the_least_latency_where_none_is_fast_enough():
    with pytest.raises(IncompatibleRecipe, match=r"0\.6 of the latency is out of reach: 0\.703 is the least"):
        looked_for(0.6, 1, lambda flops: 0.7 + 0.3 * flops)


def test_goes_on_where_fewer_operations_are_not_faster():
    """As where kernels compute some widths better than others."""

    def latency(flops: float) -> float:
        return flops if flops < 0.45 else 0.8 + 0.02 * (0.65 - flops) if flops < 0.7 else flops**0.5

    assert within(looked_for(0.4, 1, latency)[0].network.share.value, 0.4)
    found, _ = looked_for(0.7, 1, latency)
    assert not found.met
    assert found.network.share.value == pytest.approx(0.45)
    assert found.slower is not None
    assert found.slower.share.value > 0.79


def test_a_network_without_operations_is_searched_too():
    def time(units: set[int]) -> Interval:
        value = 0.2 + 0.8 * cost(units)
        return Interval(value, value, value)

    found = by_latency(one_layer(1), lambda _: 0.0, time, 0.6, lambda _: None)
    assert within(found.network.share.value, 0.6)


def test_nothing_goes_for_the_whole_latency():
    found, tries = looked_for(1.0, 1, lambda flops: flops)

    assert found.met
    assert not found.network.units
    assert not tries


def test_tells_that_what_was_left_before_is_too_fast():
    found = by_latency(
        one_layer(1), lambda units: 0.6 * cost(units), lambda _: Interval(0.3, 0.3, 0.3), 0.5, lambda _: None
    )

    assert not found.met
    assert not found.network.units


def landed(network: Simulated, share: float) -> Network | None:
    """What was found within the tolerance, as it was measured."""
    try:
        found = by_latency(network.choice, network.flops, network.time, share, lambda _: None)
    except IncompatibleRecipe:
        return None
    return found.network if found.met else None


@pytest.mark.parametrize("share", [0.8, 0.6, 0.4])
@pytest.mark.parametrize("round_to", [1, 4, 8, 16])
def test_lands_wherever_widths_allow_it_though_kernels_leap_and_times_are_noisy(round_to: int, share: float):
    measured = []
    for seed in range(12):
        network = Simulated(seed, round_to, noise=NOISE)
        found = landed(network, share)
        measured.append(network.measured)
        if found is None:
            assert not any(abs(one / share - 1) <= TOLERANCE - 2 * NOISE for one in network.possible()), seed
        else:
            assert abs(network.latency(found.units) / share - 1) <= TOLERANCE + NOISE, seed
    assert max(measured) <= MOST_MEASUREMENTS
    assert sum(measured) / len(measured) <= 10


def test_other_layers_fill_the_gap_that_one_leaves():
    """Two layers whose kernels compute 64 channels at once: on the way by worth both leap, and only a mixture is near."""
    count = 0
    for seed in range(20):
        network = Simulated(seed, 64, widths=(256, 256), block=64)
        for share in (0.7, 0.5, 0.35):
            found = landed(network, share)
            assert (found is not None) == any(within(one, share) for one in network.possible()), (seed, share)
            count += found is not None
    assert count > 20


@pytest.mark.parametrize("seed", range(5))
def test_luck_neither_takes_nor_refuses_a_network(seed: int):
    """Each measurement strays by 3%, so that the first one may well be on the wrong side of an edge."""
    network = Simulated(seed, 4, noise=0.03)
    tries: Tries = []
    found = by_latency(network.choice, network.flops, network.time, 0.6, tries.append)

    assert found.met
    assert len(found.network.seen) > 1, "it is measured again"
    assert len(tries) == network.measured


def test_an_interval_of_several_measurements_is_narrower_unless_they_contradict():
    apart = Network(frozenset(), 0.5, [Interval(0.5, 0.49, 0.51), Interval(0.6, 0.59, 0.61)])
    alike = Network(frozenset(), 0.5, [Interval(0.5, 0.45, 0.55), Interval(0.5, 0.45, 0.55)])

    assert apart.share.low < 0.52
    assert apart.share.high > 0.58
    assert 0.46 < alike.share.low < alike.share.value < alike.share.high < 0.54
