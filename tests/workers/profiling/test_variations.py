"""One engine on other numbers of threads and samples, timed for real."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from app.errors import InvalidParams
from tests.workers.measure.engines import RUNTIME, built, products
from workers.context import Feeds
from workers.measure.feeds_file import save_feeds
from workers.measure.latency import EngineUnderTest
from workers.measure.processors import usable_processors
from workers.profiling import variations
from workers.profiling.variations import thread_counts, vary

WIDTH = 64


def feeds(batch: int) -> Sequence[Feeds]:
    """Inputs of as many samples."""
    return [{"x": np.zeros((batch, WIDTH), np.float32)}]


@pytest.mark.alone
def test_threads_and_batches_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variations, "SECONDS", 0.1)
    monkeypatch.setattr(variations, "LAUNCHES", 1)
    monkeypatch.setattr(variations, "BATCHES", (1, 32))
    engine = built(products(tmp_path / "model", WIDTH, 4), tmp_path / "engine")
    save_feeds(tmp_path / "feeds.npz", feeds(1))
    found = vary(engine, tmp_path / "feeds.npz", 1, feeds, tmp_path / "varied", 0)
    expected = [] if usable_processors() == 1 else sorted({1, usable_processors() // 2, usable_processors()})
    assert list(found.threads) == expected
    assert list(found.batches) == [1, 32]
    assert found.batches[32]["p50_ms"] < 32 * found.batches[1]["p50_ms"]  # a call costs more than a sample
    assert all(times["low_ms"] <= times["p50_ms"] <= times["high_ms"] for times in found.batches.values())


def test_a_fixed_batch_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fixed(batch: int) -> Sequence[Feeds]:
        raise InvalidParams("a run of the engine takes 1 sample")

    monkeypatch.setattr(variations, "usable_processors", lambda: 1)
    engine = EngineUnderTest(RUNTIME, tmp_path, "none", {"threads": 1})
    found = vary(engine, tmp_path / "none.npz", 1, fixed, tmp_path, 0)
    assert (found.threads, found.batches) == ({}, {})


@pytest.mark.parametrize(
    ("runtime", "threads", "counts"),
    [
        ("onnxruntime-cpu", 0, [1, 4, 8]),
        ("onnxruntime-cpu", 3, [1, 3, 4, 8]),
        ("torch-inductor-cpu", 2, []),
        ("onnxruntime-cuda", None, []),
    ],
    ids=["all", "its-own", "compiled-in", "gpu"],
)
def test_threads_are_tried_where_they_can_be_chosen(
    runtime: str, threads: int | None, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variations, "usable_processors", lambda: 8)
    params = {} if threads is None else {"threads": threads}
    assert thread_counts(EngineUnderTest(runtime, Path(), "none", params)) == counts
