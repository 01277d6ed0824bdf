"""Scenario server without an engine: a queue whose answers take a known time, so that the highest rate is known too."""

import numpy as np
import pytest

from workers.benchmarking.server import (
    Served,
    arrivals,
    highest_rate,
    kept,
    relaxation_seconds,
    trial,
)

SERVICE_SECONDS = 0.01


def queue(arrive: np.ndarray, service: float = SERVICE_SECONDS) -> Served:
    """One server that takes as long for every query, first come first served (M/D/1)."""
    free, latencies = 0.0, []
    for when in arrive:
        free = max(free, when) + service
        latencies.append(int((free - when) * 1e9))
    return Served(latencies, len(arrive), int(len(arrive) * service * 1e9), float(free))


def late_share(rate: float, bound_ms: float) -> float:
    """Of very many queries of such a queue."""
    latencies = np.array(queue(arrivals(rate, 400_000, 99)).latency_ns) / 1e6
    return float(np.mean(latencies > bound_ms))


def test_arrivals_are_a_poisson_process() -> None:
    gaps = np.diff(arrivals(50.0, 100_000, 1))
    assert np.mean(gaps) == pytest.approx(1 / 50, rel=0.02)
    assert np.std(gaps) == pytest.approx(1 / 50, rel=0.02), "exponential: as wide as its mean"
    assert np.array_equal(arrivals(50.0, 100, 1), arrivals(50.0, 100, 1))


@pytest.mark.parametrize(
    ("late", "count", "told"), [(0, 400, True), (0, 300, None), (2, 400, None), (40, 400, False)]
)
def test_a_bound_is_kept_by_the_interval(late: int, count: int, told: bool | None) -> None:
    queries = np.zeros(count, bool)
    queries[np.random.default_rng(0).choice(count, late, replace=False)] = True
    assert kept(queries) is told


def test_a_crowd_of_late_queries_tells_less_than_as_many_that_are_spread() -> None:
    spread, crowd = np.zeros(4000, bool), np.zeros(4000, bool)
    spread[::200] = True
    crowd[1000:1020] = True
    assert kept(spread) is True
    assert kept(crowd) is None


def test_more_queries_are_sent_while_they_do_not_tell() -> None:
    share = late_share(45.0, 45.0)
    assert 0.003 < share < 0.008, "near the bound, below it"
    found = [trial(queue, 45.0, 1 / SERVICE_SECONDS, 45.0, 1000.0, seed) for seed in range(5)]
    least = min(len(one.latency_ms) for one in found)
    assert all(one.kept for one in found)
    assert max(len(one.latency_ms) for one in found) > least, "some were luckier"
    assert all(one.utilization == pytest.approx(0.45, abs=0.05) for one in found)


def test_a_trial_too_short_for_the_crowds_of_late_queries_tells_nothing() -> None:
    found = trial(queue, 90.0, 1 / SERVICE_SECONDS, 500.0, 5.0, 3)
    assert found.late == 0
    assert found.kept is None
    assert relaxation_seconds(90.0, 100.0) > 1
    assert relaxation_seconds(100.0, 100.0) == float("inf")


@pytest.mark.parametrize("bound_ms", [20.0, 40.0, 100.0])
def test_the_highest_rate_is_the_one_at_which_one_query_in_a_hundred_is_late(bound_ms: float) -> None:
    tried = highest_rate(queue, 1 / SERVICE_SECONDS, bound_ms, 1000.0, seed=5)
    rates = [one.rate for one in tried if one.kept]
    best = max(rates)
    assert late_share(best, bound_ms) < 0.0105
    assert late_share(1.2 * best, bound_ms) > 0.01, "a fifth more would be too many"


def test_no_rate_keeps_a_bound_below_one_answer() -> None:
    tried = highest_rate(queue, 1 / SERVICE_SECONDS, 5.0, 1.0)
    assert not any(one.kept for one in tried)
    assert len(tried) < 10, "it ends soon"


def test_an_engine_that_falls_behind_has_not_kept_the_rate() -> None:
    def behind(arrive: np.ndarray) -> Served:
        served = queue(arrive)
        return Served(served.latency_ns, served.runs, served.busy_ns, served.seconds, gave_up=True)

    found = trial(behind, 10.0, 100.0, 1e9, 1.0, 0)
    assert found.kept is False
