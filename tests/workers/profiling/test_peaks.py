"""The peaks of this machine, held to what the same product and the same copy reach in the same run."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from app.catalog.recipe import step_key
from tests.workers.profiling.cases import PEAKS
from workers.measure.latency import EngineUnderTest
from workers.measure.processors import choose_cpus, pin
from workers.profiling import peaks
from workers.profiling.peaks import cause_of, peaks_of
from workers.profiling.peaks_torch import cache

ENGINE = EngineUnderTest("onnxruntime-cpu", Path(), "none", {"threads": 1})
WITHIN = 0.2
TURNS = 4


class Remembering:
    """A memory in this process."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def recall(self, name: str, cause: Mapping[str, Any]) -> bytes | None:
        """See `memory.Memory.recall`."""
        return self.held.get(step_key({"memory": name, **cause}))

    def remember(self, name: str, cause: Mapping[str, Any], content: bytes) -> None:
        """See `memory.Memory.remember`."""
        self.held[step_key({"memory": name, **cause})] = content


def fastest(call: Callable[[], Any]) -> float:
    """The seconds of the fastest of many calls."""
    call()
    times = []
    end = time.perf_counter() + 1.0
    while time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def reached(cpus: list[int]) -> tuple[float, float]:
    """FLOP/s of a product and bytes a second of a copy on one of these CPUs, by calls of the test's own."""
    before, threads = choose_cpus({}), torch.get_num_threads()
    pin(cpus)
    torch.set_num_threads(1)
    try:
        matrix = torch.randn(512, 512)
        result = torch.empty_like(matrix)
        product = 2 * 512**3 / fastest(lambda: torch.mm(matrix, matrix, out=result))
        values = torch.ones(64 << 20)
        target = torch.empty_like(values)
        return product, 2 * values.nbytes / fastest(lambda: target.copy_(values))
    finally:
        torch.set_num_threads(threads)
        pin(before)


@pytest.mark.alone
def test_the_peaks_are_what_the_same_product_and_copy_reach(tmp_path: Path) -> None:
    """Both in turns until the best of each agree: a machine that others share is slower at one time than at another."""
    cpus = choose_cpus(ENGINE.params)
    every, own = [], []
    for turn in range(TURNS):
        found, waited = peaks.measure(ENGINE, cpus, tmp_path / str(turn), 1)
        assert waited is None or 0 <= waited < 1
        every.append(found)
        own.append(reached(cpus))
        rates = max(one.flops_per_s["fp32"] for one in every), max(one.bytes_per_s for one in every)
        wanted = max(product for product, _ in own), max(copy for _, copy in own)
        if rates == pytest.approx(wanted, rel=WITHIN):
            break
    assert rates == pytest.approx(wanted, rel=WITHIN)
    assert found.threads == 1
    assert found.measured_with == f"torch {torch.__version__}"
    assert all(rate >= found.flops_per_s["fp32"] for rate in found.flops_per_s.values())
    assert found.cached_bytes_per_s is None or found.cached_bytes_per_s > found.bytes_per_s
    assert 0 < found.overhead_ms < 1000 * 2 * 512**3 / wanted[0]


@pytest.mark.parametrize(
    ("rates", "rate", "size"),
    [
        ({1: 45, 2: 65, 4: 95, 8: 93, 16: 81, 32: 58, 64: 35}, 95, 32),
        ({1: 95, 2: 90, 4: 50, 8: 70}, 95, 4),
        ({1: 20, 2: 50, 4: 55}, None, None),
    ],
    ids=["small-copies-are-mostly-calls", "up-to-the-first-that-is-slow", "no-cache-to-be-seen"],
)
def test_what_a_cache_holds(rates: dict[int, float], rate: float | None, size: int | None) -> None:
    assert cache(rates, 30) == {"cached_bytes_per_s": rate, "cached_bytes": size}


@pytest.mark.parametrize("waited", [None, 0.01])
def test_peaks_are_measured_once_for_a_machine(
    waited: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, notes, calls = Remembering(), list[str](), []
    monkeypatch.setattr(peaks, "measure", lambda *given: calls.append(given) or (PEAKS, waited))
    cpus = choose_cpus(ENGINE.params)
    first = peaks_of(ENGINE, cpus, tmp_path, memory, notes)
    assert peaks_of(ENGINE, cpus, tmp_path, memory, notes) == first == PEAKS
    assert len(calls) == 1
    assert not notes
    assert cause_of("cpu", 1, 1) != cause_of("cpu", 2, 2)


def test_what_others_disturbed_is_told_and_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, notes = Remembering(), list[str]()
    monkeypatch.setattr(peaks, "measure", lambda *given: (PEAKS, 0.2))
    assert peaks_of(ENGINE, choose_cpus(ENGINE.params), tmp_path, memory, notes) is not None
    assert not memory.held
    assert "others were at work on the processors for 20% of the time" in notes[0]


def test_of_a_device_that_pytorch_does_not_compute_on_nothing_is_known(tmp_path: Path) -> None:
    notes: list[str] = []
    engine = EngineUnderTest("openvino-npu", Path(), "none", {})
    assert peaks_of(engine, [0], tmp_path, None, notes) is None
    assert "intel-npu" in notes[0]
