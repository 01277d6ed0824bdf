"""Feeds that go from one process to another."""

from pathlib import Path

import numpy as np

from tests.workers.engines.networks import ArraySamples
from workers.feeds import plan_feeds
from workers.measure import feeds_file
from workers.measure.feeds_file import MOST_FEEDS, choose_feeds, load_feeds, save_feeds


def inputs(*shape: int | None, dtype: str = "float32") -> list[dict]:
    return [{"name": "x", "dtype": dtype, "shape": list(shape)}]


def test_whatever_is_fed_arrives(tmp_path: Path):
    feeds = [
        {
            "in/put:0": np.arange(6, dtype=dtype).reshape(2, 3),
            "0": np.array([["a", "öß"]], object),
            "names": np.array(True),
        }
        for dtype in ("float16", "int64")
    ]
    save_feeds(tmp_path / "feeds.npz", feeds)
    for wanted, got in zip(feeds, load_feeds(tmp_path / "feeds.npz"), strict=True):
        assert list(got) == sorted(wanted)
        for name in wanted:
            assert got[name].dtype == wanted[name].dtype
            np.testing.assert_array_equal(got[name], wanted[name])


def test_a_free_batch_is_fed_one_sample_at_a_time():
    samples = ArraySamples({"x": np.arange(40, dtype=np.float32).reshape(20, 2)})
    chosen = choose_feeds(plan_feeds(inputs(None, 2), samples.inputs), samples)
    assert len(chosen) == MOST_FEEDS
    np.testing.assert_array_equal(np.concatenate([one["x"] for one in chosen]), np.arange(16).reshape(8, 2))


def test_a_fixed_batch_is_fed_whole():
    samples = ArraySamples({"x": np.arange(40, dtype=np.float32).reshape(20, 2)})
    chosen = choose_feeds(plan_feeds(inputs(16, 2), samples.inputs), samples)
    assert [one["x"].shape for one in chosen] == [(16, 2), (16, 2)]
    np.testing.assert_array_equal(chosen[1]["x"][4:], np.tile([38, 39], (12, 1)))


def test_large_samples_are_few(monkeypatch):
    monkeypatch.setattr(feeds_file, "MOST_BYTES", 20)
    samples = ArraySamples({"x": np.zeros((20, 2), np.float32)})
    assert len(choose_feeds(plan_feeds(inputs(None, 2), samples.inputs), samples)) == 2
    monkeypatch.setattr(feeds_file, "MOST_BYTES", 1)
    assert len(choose_feeds(plan_feeds(inputs(None, 2), samples.inputs), samples)) == 1
