"""The simulation of a large installation, held against what queueing theory says of it."""

import pytest

from benchmarks.scale.demands import OPERATIONS, Demand
from benchmarks.scale.load import Fleet, Job, limits, per_job, simulate

DEMANDS = {name: Demand(postgres_ms=1.0, client_ms=5.0) for name in OPERATIONS}
JOB = Job(mean_seconds=10.0, sigma=0.5)


def fleet(rate: float, **sizes: int) -> Fleet:
    return Fleet(
        "", **{"workers": 200, "database_cores": 2, "replicas": 2, **sizes}, jobs_a_second=rate, job=JOB
    )


def test_a_station_is_as_busy_as_its_demands_say() -> None:
    given = fleet(4.0)
    seen = simulate(given, DEMANDS, seconds=60.0)
    times = per_job(DEMANDS, JOB)
    assert seen.busy["workers"] == pytest.approx(4.0 * 10.0 / 200, rel=0.25)
    database = sum(number for name, number in times.items() if name != "beat") / 1000
    beats = given.workers / 5 / 1000  # idle workers say that they live too
    assert seen.busy["PostgreSQL"] == pytest.approx((4.0 * database + beats) / 2, rel=0.25)
    assert seen.waiting == 0


def test_the_station_that_gives_out_first_is_the_one_that_its_demand_names() -> None:
    (first, _, rate), (_, _, second) = limits(DEMANDS, fleet(1.0))[:2]
    assert first == "2 API replicas"
    assert rate < second
    seen = simulate(fleet(1.5 * rate), DEMANDS, seconds=30.0)
    assert seen.busy["API"] > 0.95
    assert seen.busy["PostgreSQL"] < 0.95
    assert max(seen.read) > 5, "reads wait ever longer"


def test_too_few_workers_let_jobs_wait() -> None:
    few, many = (simulate(fleet(4.0, workers=count), DEMANDS, seconds=40.0) for count in (20, 80))
    assert few.busy["workers"] > 0.95
    assert few.waiting > 20
    assert many.waiting == 0
