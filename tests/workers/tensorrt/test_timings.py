"""The timing cache between builds. TensorRT for RTX has its functions and times nothing, and takes no cache back without a GPU: real
here are its writing, its refusals and what follows; what comes of caches that are taken is tried on a set of names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from app.catalog.recipe import step_key
from app.catalog.runtime_params.tensorrt import TensorRtParams
from tests.workers.tensorrt.networks import Exported
from tests.workers.tensorrt.precisions import RTX
from workers.tensorrt import timings
from workers.tensorrt.build import build_plan
from workers.tensorrt.library import Library, library
from workers.tensorrt.logger import listen

Network = Callable[..., Exported]
pytestmark = pytest.mark.filterwarnings(  # TensorRT for RTX alone says so
    "ignore:Use Deprecated in TensorRT-RTX 1.2. Timing cache operations are no-ops:DeprecationWarning"
)


class Notes:
    """A memory in a dictionary, which notes how often it was written."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.writes = 0

    def recall(self, name: str, cause: Mapping[str, Any]) -> bytes | None:
        return self.kept.get(step_key({"name": name, **cause}))

    def remember(self, name: str, cause: Mapping[str, Any], content: bytes) -> None:
        self.writes += 1
        self.kept[step_key({"name": name, **cause})] = content


@pytest.fixture
def trt() -> Library:
    """The library that is here, as the runtime that has timings."""
    return Library("tensorrt", library(RTX).trt)


def built(trt: Library, network: Network, out: Path, notes: Notes, **params: Any) -> dict[str, Any]:
    out.mkdir()
    given = TensorRtParams(**params)
    return build_plan(trt, network("cnn", "static").model, given, out, lambda *_: None, notes)


class Cache:
    """A timing cache as TensorRT's, of names: RTX takes none without a GPU, and has nothing to put into one."""

    def __init__(self, content: bytes):
        self.names = set(content.decode().split())

    def serialize(self) -> bytes:
        return " ".join(sorted(self.names)).encode()

    def combine(self, other: "Cache", ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.names |= other.names
        return True


class Config:
    """The part of a configuration that holds it; `device`: whether caches are of this one."""

    def __init__(self, *, device: bool = True):
        self.device = device

    def create_timing_cache(self, content: bytes) -> Cache:
        return Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return self.device or not cache.names


def test_a_build_starts_from_what_others_kept_and_adds_to_it(trt: Library) -> None:
    notes, heard, params = Notes(), listen(trt), TensorRtParams()
    first, second = (timings.attach(trt, Config(), params, notes, heard) for _ in range(2))
    first.cache.names.add("conv")
    assert timings.keep(Config(), first, notes) == {"before_bytes": 0, "after_bytes": 4, "dropped": None}
    second.cache.names.add("gemm")  # timed at the same time, by another worker
    assert timings.keep(Config(), second, notes)["after_bytes"] == len("conv gemm")
    third = timings.attach(trt, Config(), params, notes, heard)
    assert third.cache.names == {"conv", "gemm"}
    writes = notes.writes
    assert timings.keep(Config(), third, notes)["before_bytes"] == len("conv gemm")
    assert notes.writes == writes, "nothing new was timed: nothing is written"


def test_the_cache_of_another_device_is_left(trt: Library) -> None:
    notes, heard, params = Notes(), listen(trt), TensorRtParams()
    first = timings.attach(trt, Config(), params, notes, heard)
    first.cache.names.add("conv")
    timings.keep(Config(), first, notes)
    other = timings.attach(trt, Config(device=False), params, notes, heard)
    assert (other.cache.names, other.before) == (set(), b"")
    assert other.dropped == "the library does not take it: it is of another device"


@pytest.mark.parametrize("spoilt", ["nonsense", "half", "another version"])
def test_what_the_library_does_not_take_is_dropped_and_replaced(
    spoilt: str, trt: Library, network: Network, tmp_path: Path
) -> None:
    notes = Notes()
    first = built(trt, network, tmp_path / "one", notes)["timing_cache"]
    ((key, good),) = notes.kept.items()
    assert first == {"before_bytes": 0, "after_bytes": len(good), "dropped": None}
    notes.kept[key] = {
        "nonsense": b"no timings" * 100,
        "half": good[: len(good) // 2],
        "another version": bytes(byte ^ 0xFF for byte in good[:32]) + good[32:],
    }[spoilt]
    facts = built(trt, network, tmp_path / "two", notes)
    assert facts["timing_cache"]["dropped"].startswith("the library does not take it")
    assert notes.kept[key] == good
    assert (tmp_path / "two" / "engine.plan").stat().st_size > 10_000
    assert not any("timing cache" in text for text in facts["library_warnings"])


def test_a_cache_that_grew_too_large_is_begun_anew(
    trt: Library, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes()
    built(trt, network, tmp_path / "one", notes)
    ((key, good),) = notes.kept.items()
    monkeypatch.setattr(timings, "MOST_BYTES", len(good) - 1)
    assert "grown to" in built(trt, network, tmp_path / "two", notes)["timing_cache"]["dropped"]
    assert notes.kept[key] == good


def test_without_a_timing_cache_nothing_is_kept(trt: Library, network: Network, tmp_path: Path) -> None:
    notes = Notes()
    assert "timing_cache" not in built(trt, network, tmp_path / "one", notes, timing_cache=False)
    assert notes.kept == {}


GPU = {"name": "A", "uuid": "GPU-1", "memory_mib": "1", "driver": "1", "compute_capability": "8.9"}


@pytest.mark.parametrize(
    ("changes", "params", "same"),
    [
        ({"uuid": "GPU-2"}, {"max_batch": 8, "cuda_graphs": False}, True),
        ({"name": "B"}, {}, False),
        ({"driver": "2"}, {}, False),
        ({"compute_capability": "9.0"}, {}, False),
        ({}, {"tf32": True}, False),
        ({}, {"optimization_level": 5}, False),
    ],
    ids=["another card of the kind", "model", "driver", "capability", "tf32", "level"],
)
def test_timings_are_of_a_gpu_and_of_what_is_tried(
    changes: dict[str, str], params: dict[str, Any], same: bool, trt: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timings, "gpus", lambda: [GPU])
    before = timings.cause_of(trt, TensorRtParams())
    monkeypatch.setattr(timings, "gpus", lambda: [{**GPU, **changes}])
    assert (timings.cause_of(trt, TensorRtParams(**params)) == before) is same
