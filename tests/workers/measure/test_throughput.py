"""Several requests under way: what an engine that takes them gives, and what a session says of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.catalog.runtimes import RUNTIMES
from app.errors import SignatureMismatch
from tests.workers.measure.engines import built, products
from workers.measure.feeds_file import save_feeds
from workers.measure.latency import EngineUnderTest, compare_latency
from workers.measure.rows import measurement_rows
from workers.measure.throughput import SHARE, Rates, seconds_for_requests
from workers.runtimes import registry
from workers.runtimes.base import Concurrent, Engine

WIDTH = 32
RUNTIME = "openvino-cpu"
TWO = {"threads": 2, "hint": "throughput", "streams": 2}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory):
    """`engine(params)`: the same network, to be loaded with these parameters of OpenVINO."""
    folder = tmp_path_factory.mktemp("openvino")
    model, out = products(folder / "model", WIDTH, 3), folder / "engine"
    out.mkdir()
    built = registry.alone(RUNTIME).build(model, RUNTIMES[RUNTIME].params(), out)

    def with_params(params: dict[str, Any]) -> EngineUnderTest:
        filled = RUNTIMES[RUNTIME].params.model_validate(params).model_dump(mode="json")
        return EngineUnderTest(RUNTIME, built.root, built.entry, filled)

    return with_params


def loaded(engine: EngineUnderTest) -> Any:
    params = RUNTIMES[RUNTIME].params.model_validate(engine.params)
    return registry.alone(RUNTIME).load(Engine(engine.root, engine.entry), params)


@pytest.mark.parametrize(
    ("params", "requests"),
    [
        ({"threads": 2}, 1),
        ({"threads": 2, "streams": 2}, 2),
        (TWO, 2),
        ({"threads": 1, "hint": "throughput"}, 1),
    ],
)
def test_requests_are_those_that_threads_are_arranged_for(engine, params: dict[str, Any], requests: int):
    found = loaded(engine(params))
    assert isinstance(found, Concurrent)
    assert found.requests == requests


def test_runs_side_by_side_give_what_runs_one_after_another_give(engine):
    found = loaded(engine(TWO))
    random = np.random.default_rng(0)
    feeds = [{"x": random.standard_normal((1 + n % 3, WIDTH)).astype(np.float32)} for n in range(40)]
    taken: dict[int, Any] = {}
    found.run_many(iter(feeds), lambda number, outputs: taken.update({number: outputs}))
    assert sorted(taken) == list(range(40))
    for number, feed in enumerate(feeds):
        np.testing.assert_array_equal(taken[number]["y"], found.run(feed)["y"])


def test_a_wrong_feed_among_many_is_told_and_the_engine_lives(engine):
    found = loaded(engine(TWO))
    right, wrong = {"x": np.ones((1, WIDTH), np.float32)}, {"x": np.ones((1, WIDTH + 1), np.float32)}
    with pytest.raises(SignatureMismatch) as refusal:
        found.run_many([right, right, wrong, right], lambda number, outputs: None)
    assert refusal.value.param == "x"
    taken: list[int] = []
    found.run_many([right] * 5, lambda number, outputs: taken.append(number))
    assert sorted(taken) == list(range(5))


def test_what_goes_wrong_with_an_outcome_reaches_the_caller(engine):
    def take(number: int, outputs: Any) -> None:
        raise ArithmeticError(f"of {number}")

    with pytest.raises(ArithmeticError, match="of 0"):
        loaded(engine(TWO)).run_many([{"x": np.ones((1, WIDTH), np.float32)}], take)


def test_throughput_is_of_as_many_requests_as_the_engine_takes(engine, tmp_path: Path):
    feeds = tmp_path / "feeds.npz"
    save_feeds(feeds, [{"x": np.full((4, WIDTH), 1.0 + number, np.float32)} for number in range(3)])
    timed = compare_latency(engine(TWO), engine(TWO), feeds, tmp_path / "a", batch=4, launches=2, seconds=0.5)
    for name in ("baseline", "optimized"):
        side = timed[name]
        blocks = side["throughput_blocks"]
        assert side["concurrency"] == 2
        assert blocks["low"] <= side["throughput_per_s"] <= blocks["high"]
        assert blocks["count"] >= 2 * 2 * 2 * 2  # launches, blocks, requests, runs each
    sides = {name: {**timed[name], "accuracy": None} for name in ("baseline", "optimized")}
    comparison = {"speedup": timed["speedup"], "speedup_over_reference": None, "accuracy_drop": None}
    rows = [row for row in measurement_rows(timed, comparison, sides, {}) if row["name"] == "throughput"]
    assert [row["samples"]["concurrency"] for row in rows] == [2, 2]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)


def test_an_engine_of_one_request_is_timed_as_ever(engine, tmp_path: Path):
    feeds = tmp_path / "feeds.npz"
    save_feeds(feeds, [{"x": np.ones((1, WIDTH), np.float32)}])
    one = built(products(tmp_path / "model", WIDTH, 3), tmp_path / "engine")
    timed = compare_latency(one, engine({"threads": 1}), feeds, tmp_path / "a", launches=2, seconds=0.2)
    for name in ("baseline", "optimized"):
        assert (timed[name]["concurrency"], timed[name]["throughput_blocks"]) == (1, None)
    assert seconds_for_requests(8.0, 1, 1) == 0
    assert seconds_for_requests(8.0, 1, 2) == 8 * SHARE


def test_a_rate_is_the_median_of_blocks_and_its_interval_counts_samples():
    rates = Rates(2, [[10.0, 20.0], [30.0, 40.0]], runs=12)
    assert rates.runs_per_s == 25
    described = rates.described(4, seed=0)
    assert described is not None
    assert (described["low"], described["high"]) == (40, 160)
    assert described["count"] == 12
    assert Rates().described(1, seed=0) is None
