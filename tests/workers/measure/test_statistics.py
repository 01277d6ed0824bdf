"""Intervals against simulated times whose truth is known: do they hold it, do they find differences, and invent none."""

from dataclasses import dataclass

import numpy as np
import pytest

from app.measurements.compare import speed_verdict
from workers.measure import statistics
from workers.measure.latency import LAUNCHES
from workers.measure.statistics import mean_interval, median_interval, ratio_interval

SESSIONS = 250

ROUNDS = 3  # a launch, in six seconds


@dataclass(frozen=True)
class Noise:
    """What disturbs times, as logarithms: by launch, by block, a drift over a launch, and bursts that hit some blocks."""

    launch: float = 0.0
    block: float = 0.0
    drift: float = 0.0
    burst_share: float = 0.0
    burst: float = 0.5


NOISES = {
    "launches": Noise(launch=0.02, block=0.005),
    "blocks": Noise(block=0.02),
    "both": Noise(launch=0.01, block=0.01),
    "drift": Noise(launch=0.01, block=0.005, drift=0.3),
    "bursts": Noise(launch=0.005, block=0.01, burst_share=0.1),
}


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch):
    """Hundreds of intervals are made here."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1500)


def session(random: np.random.Generator, noise: Noise, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Block medians of two engines timed in rounds of ABBA: the first takes `ratio` times as long."""
    shape = (LAUNCHES, ROUNDS, 4)
    logs = random.normal(0, noise.block, shape)
    logs += noise.drift * np.arange(4 * ROUNDS).reshape(1, ROUNDS, 4) / (4 * ROUNDS)
    logs += noise.burst * (random.random(shape) < noise.burst_share) * random.random(shape)
    first = logs[:, :, [0, 3]] + random.normal(0, noise.launch, (LAUNCHES, 1, 1)) + np.log(ratio)
    second = logs[:, :, [1, 2]] + random.normal(0, noise.launch, (LAUNCHES, 1, 1))
    return np.exp(first).reshape(LAUNCHES, -1), np.exp(second).reshape(LAUNCHES, -1)


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("ratio", [1.0, 2.5])
def test_the_interval_of_a_ratio_holds_the_truth(name: str, ratio: float):
    random = np.random.default_rng(1)
    found = [ratio_interval(*session(random, NOISES[name], ratio), seed=number) for number in range(SESSIONS)]
    covered = np.mean([one.low <= ratio <= one.high for one in found])
    assert covered >= 0.90  # 95% less what 250 sessions let chance do, and five launches cost
    assert all(one.low <= one.value <= one.high for one in found)
    assert np.median([one.high / one.low for one in found]) < 1.12  # that wide would hold anything


@pytest.mark.parametrize("name", NOISES)
def test_equal_engines_are_not_called_different(name: str):
    random = np.random.default_rng(2)
    verdicts = []
    for number in range(SESSIONS):
        same, control = session(random, NOISES[name], 1.0), session(random, NOISES[name], 1.0)
        verdicts.append(speed_verdict(ratio_interval(*same, number), ratio_interval(*control, number)))
    claims = sum(verdict in ("faster", "slower") for verdict in verdicts)
    assert claims <= 0.05 * SESSIONS
    assert verdicts.count("no_difference") > 0.5 * SESSIONS


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize(("ratio", "verdict"), [(1.3, "faster"), (1 / 1.3, "slower")])
def test_differences_are_found(name: str, ratio: float, verdict: str):
    random = np.random.default_rng(3)
    verdicts = []
    for number in range(100):
        pair, control = session(random, NOISES[name], ratio), session(random, NOISES[name], 1.0)
        verdicts.append(speed_verdict(ratio_interval(*pair, number), ratio_interval(*control, number)))
    assert verdicts.count(verdict) >= 85
    assert set(verdicts) <= {verdict, "unstable"}


def test_a_drift_cancels_within_a_round():
    times = np.exp(np.linspace(0, 1, 4 * ROUNDS)).reshape(1, ROUNDS, 4).repeat(LAUNCHES, axis=0)
    first, second = times[:, :, [0, 3]].reshape(LAUNCHES, -1), times[:, :, [1, 2]].reshape(LAUNCHES, -1)
    found = ratio_interval(first, second, 0)
    assert (found.low, found.value, found.high) == pytest.approx((1, 1, 1))


def test_few_bursts_leave_the_ratio_alone():
    first, second = np.full((5, 6), 2.0), np.full((5, 6), 1.0)
    first[1, 2] = second[3, 0] = 500.0
    assert ratio_interval(first, second, 0).value == pytest.approx(2.0)


def test_a_seed_repeats():
    pair = session(np.random.default_rng(0), NOISES["both"], 1.5)
    assert ratio_interval(*pair, seed=3) == ratio_interval(*pair, seed=3)


def test_what_differs_between_launches_counts_once_a_launch():
    """Many equal rounds in launches that differ are no more certain than few."""
    levels = np.array([1.0, 1.1, 1.2, 1.3, 1.4])[:, np.newaxis]
    few, many = (ratio_interval(levels.repeat(2 * n, axis=1), np.ones((5, 2 * n)), 0) for n in (2, 50))
    assert many.high / many.low > 0.8 * few.high / few.low > 1.1


def test_the_interval_of_a_median_holds_the_truth():
    random = np.random.default_rng(4)
    found = [
        median_interval(10 + random.normal(0, 0.3, (5, 1)) + random.normal(0, 0.1, (5, 6)), number)
        for number in range(SESSIONS)
    ]
    assert np.mean([one.low <= 10 <= one.high for one in found]) >= 0.88


@pytest.mark.parametrize("count", [8, 40, 3000])
def test_the_interval_of_a_mean_holds_the_truth(count: int):
    random = np.random.default_rng(5)
    found = [mean_interval(random.gamma(4.0, 1.0, count), number) for number in range(SESSIONS)]
    assert 0.90 <= np.mean([one.low <= 4.0 <= one.high for one in found]) <= 0.995


def test_a_single_value_has_no_spread():
    assert mean_interval(np.array([3.0]), 0).low == 3.0
