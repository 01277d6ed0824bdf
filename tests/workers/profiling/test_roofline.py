"""Floors and bounds worked out by hand."""

import pytest

from app.profiles.schemas import Layer, Peaks
from workers.profiling.costs import UNKNOWN, Cost
from workers.profiling.roofline import above_peak, explained, worth_most

PEAKS = Peaks(
    flops_per_s={"fp32": 100e9, "bf16": 200e9},
    bytes_per_s=10e9,
    cached_bytes_per_s=100e9,
    cached_bytes=1_000_000,
    overhead_ms=0.001,
    threads=1,
    measured_with="hand",
    measured_at="2026-01-01T00:00:00+00:00",
)


def layer(name: str, mean_ms: float, precision: str | None = "fp32") -> Layer:
    """A layer without a floor."""
    return Layer(
        name=name, operator="?", layers=[name], calls=1, mean_ms=mean_ms, share=0.1, precision=precision
    )


@pytest.mark.parametrize(
    ("cost", "precision", "mean_ms", "floor_ms", "bound"),
    [
        (Cost(100_000_000, 1000, 1000), "fp32", 1.5, 1.0, "compute"),
        (Cost(100_000_000, 1000, 1000), "fp32", 2.5, 1.0, "overhead"),
        (Cost(100_000_000, 1000, 1000), "bf16", 0.9, 0.5, "compute"),
        # no instructions for it: it is computed in fp32
        (Cost(100_000_000, 1000, 1000), "fp16", 1.5, 1.0, "compute"),
        (Cost(100_000_000, 1000, 1000), None, 1.5, 1.0, "compute"),
        # 800 kB stay in the cache, 8 MB do not
        (Cost(0, 800_000, 0), "fp32", 0.01, 0.008, "memory"),
        (Cost(0, 8_000_000, 0), "fp32", 1.0, 0.8, "memory"),
        (Cost(0, 0, 800_000), "fp32", 0.01, 0.008, "memory"),
    ],
    ids=["computes", "twice-its-floor", "half", "without-instructions", "unknown-precision", "cached", "large", "weights"],
)  # fmt: skip
def test_the_longer_of_computing_and_moving_is_the_floor(
    cost: Cost, precision: str | None, mean_ms: float, floor_ms: float, bound: str
) -> None:
    (found,) = explained([layer("x", mean_ms, precision)], [cost], PEAKS)
    assert found.floor_ms == pytest.approx(floor_ms)
    assert found.bound == bound


def test_weights_that_do_not_all_fit_into_a_cache_come_from_memory() -> None:
    costs = [Cost(0, 0, 800_000), Cost(0, 0, 800_000)]
    found = explained([layer("a", 0.1), layer("b", 0.1)], costs, PEAKS)
    assert [one.floor_ms for one in found] == pytest.approx([0.08, 0.08])


def test_what_is_not_known_has_no_floor() -> None:
    (found,) = explained([layer("x", 1.0)], [UNKNOWN], PEAKS)
    assert (found.floor_ms, found.bound) == (None, None)


def test_the_layers_worth_most_are_those_furthest_above_their_floors() -> None:
    costs = [Cost(100_000_000, 0, 0), UNKNOWN, Cost(0, 100_000, 0), Cost(100_000_000, 0, 0)]
    layers = explained([layer("a", 1.1), layer("b", 9.0), layer("c", 0.5), layer("d", 3.0)], costs, PEAKS)
    assert [one.name for one in worth_most(layers)] == ["d", "c", "a"]
    assert [one.name for one in worth_most(layers, 1)] == ["d"]


def test_layers_faster_than_the_peaks_are_told() -> None:
    costs = [Cost(100_000_000, 0, 0), Cost(100_000_000, 0, 0)]
    assert above_peak(explained([layer("a", 1.0), layer("b", 0.9)], costs, PEAKS)) is None
    note = above_peak(explained([layer("a", 1.0), layer("b", 0.5)], costs, PEAKS))
    assert note is not None
    assert note.startswith("1 layer is faster than the device's peaks allow (b: 2 times)")
