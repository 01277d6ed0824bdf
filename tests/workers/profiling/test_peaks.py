"""The peaks of this machine, held to what the same product and the same copy reach in the same run."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from app.catalog.recipe import step_key
from workers.measure.latency import EngineUnderTest
from workers.measure.processors import choose_cpus, pin
from workers.profiling import peaks
from workers.profiling.peaks import cause_of, peaks_of

ENGINE = EngineUnderTest("onnxruntime-cpu", Path(), "none", {"threads": 1})
WITHIN = 0.2


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


@pytest.mark.alone
def test_the_peaks_are_what_the_same_product_and_copy_reach(tmp_path: Path) -> None:
    before = choose_cpus({})
    cpus = choose_cpus(ENGINE.params)
    found = peaks_of(ENGINE, cpus, tmp_path, None, [])
    assert found is not None
    pin(cpus)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        matrix = torch.randn(512, 512)
        result = torch.empty_like(matrix)
        product = 2 * 512**3 / fastest(lambda: torch.mm(matrix, matrix, out=result))
        values = torch.ones(64 << 20)
        target = torch.empty_like(values)
        copy = 2 * values.nbytes / fastest(lambda: target.copy_(values))
    finally:
        torch.set_num_threads(threads)
        pin(before)
    assert found.flops_per_s["fp32"] == pytest.approx(product, rel=WITHIN)
    assert found.bytes_per_s == pytest.approx(copy, rel=WITHIN)
    assert found.threads == 1
    assert found.measured_with == f"torch {torch.__version__}"
    assert all(rate >= found.flops_per_s["fp32"] for rate in found.flops_per_s.values())
    assert found.cached_bytes_per_s is not None
    assert found.cached_bytes_per_s > found.bytes_per_s
    assert 0 < found.overhead_ms < 1000 * 2 * 512**3 / product


def test_peaks_are_measured_once_for_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, notes = Remembering(), list[str]()
    monkeypatch.setattr(peaks, "DISTURBED", 1.1)  # others may be at work while tests run
    cpus = choose_cpus(ENGINE.params)
    first = peaks_of(ENGINE, cpus, tmp_path, memory, notes)
    assert peaks_of(ENGINE, cpus, tmp_path, memory, notes) == first  # to the second in which it was measured
    assert not notes
    assert cause_of("cpu", 1, 1) != cause_of("cpu", 2, 2)


def test_what_others_disturbed_is_told_and_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, notes = Remembering(), list[str]()
    monkeypatch.setattr(peaks, "DISTURBED", -1.0)
    assert peaks_of(ENGINE, choose_cpus(ENGINE.params), tmp_path, memory, notes) is not None
    assert not memory.held
    assert "others were at work" in notes[0]


def test_of_a_device_that_pytorch_does_not_compute_on_nothing_is_known(tmp_path: Path) -> None:
    notes: list[str] = []
    engine = EngineUnderTest("openvino-npu", Path(), "none", {})
    assert peaks_of(engine, [0], tmp_path, None, notes) is None
    assert "intel-npu" in notes[0]
