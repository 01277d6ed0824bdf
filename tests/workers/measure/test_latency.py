"""Real engines in real processes, on whatever machine runs this: claims must be right, times are not asserted."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from app.errors import Crashed, InvalidModel
from tests.workers.measure.engines import built, products
from workers.measure.environment import hardware_key, machine
from workers.measure.feeds_file import save_feeds
from workers.measure.latency import EngineUnderTest, compare_latency, plan_blocks
from workers.measure.launched import Launched
from workers.measure.processors import allowed_cpus, choose_cpus
from workers.measure.single import time_alone
from workers.measure.timed import BLOCK_SECONDS, MOST_RUNS, P99_RUNS

WIDTH = 256


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> EngineUnderTest:
    folder = tmp_path_factory.mktemp("small")
    return built(products(folder / "model", WIDTH, 3), folder / "engine")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> EngineUnderTest:
    """Ten times the work."""
    folder = tmp_path_factory.mktemp("large")
    return built(products(folder / "model", WIDTH, 30), folder / "engine")


@pytest.fixture
def feeds(tmp_path: Path) -> Path:
    path = tmp_path / "feeds.npz"
    save_feeds(path, [{"x": np.full((4, WIDTH), 1.0 + number, np.float32)} for number in range(3)])
    return path


@pytest.fixture
def launch(feeds: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Launched]:
    def start(engine: EngineUnderTest, cpus: list[int] | None = None) -> Launched:
        launched = Launched(engine, feeds, cpus or allowed_cpus()[:1], tmp_path)
        launched.__enter__()
        request.addfinalizer(lambda: launched.__exit__(None, None, None))
        return launched

    return start


@pytest.mark.alone
def test_ten_times_the_work_is_slower_and_less_is_faster(
    small: EngineUnderTest, large: EngineUnderTest, feeds: Path, tmp_path: Path
):
    """As the baseline, and as the reference that is timed beside the optimized engine."""
    told: list[tuple[int, int, str]] = []
    result = compare_latency(
        large,
        small,
        feeds,
        tmp_path / "a",
        batch=4,
        seconds=2,
        reference=large,
        report=lambda *given: told.append(given),
    )
    speedup, control = result["speedup"], result["control"]
    assert speedup["verdict"] == "faster" or control["high"] > 1.02 or control["low"] < 0.98, result
    for ratio in (speedup, result["speedup_over_reference"]):
        assert ratio["verdict"] in ("faster", "unstable")
        assert 3 < ratio["low"] <= ratio["value"] <= ratio["high"]
    before, after, reference = (result[side]["latency"] for side in ("baseline", "optimized", "reference"))
    assert before["p50_ms"] > after["p50_ms"]
    assert reference["p50_ms"] > 3 * after["p50_ms"]
    for latency in (before, after, reference):
        assert 0 < latency["p50_ms"] <= latency["p90_ms"]
        assert (latency["launches"], latency["batch"], latency["threads"]) == (5, 4, 1)
        assert (latency["p99_ms"] is None) == (latency["samples"] < P99_RUNS)
    plan = result["plan"]
    assert after["samples"] == 5 * 2 * plan["rounds"] * plan["optimized_runs"]
    assert np.shape(result["baseline"]["block_medians_ms"]) == (5, 2 * plan["rounds"])
    weights = 27 * WIDTH * WIDTH * 4  # what the large one has more
    assert result["baseline"]["peak_memory_bytes"] - result["optimized"]["peak_memory_bytes"] > 0.8 * weights
    assert len(result["pinned_cpus"]) == 1
    assert [done for done, _, _ in told] == list(range(16))


@pytest.mark.alone
def test_an_engine_is_not_faster_than_itself(small: EngineUnderTest, feeds: Path, tmp_path: Path):
    """An interval misses one time in 20, and a claim needs more than that: two wrong ones of three are no chance."""
    verdicts = [
        compare_latency(small, small, feeds, tmp_path / "a", seconds=1, seed=seed)["speedup"]["verdict"]
        for seed in range(3)
    ]
    assert sum(verdict in ("faster", "slower") for verdict in verdicts) <= 1, verdicts


@pytest.mark.parametrize(
    ("baseline_ns", "optimized_ns", "runs", "rounds"),
    [
        (1e3, 1e3, (MOST_RUNS, MOST_RUNS), 3),
        (1e6, 5e5, (50, 100), 3),
        (1e8, 1e6, (1, 50), 1),
        (60e9, 30e9, (1, 1), 1),  # never less, however slow
    ],
)
def test_blocks_fit_the_speed(baseline_ns: float, optimized_ns: float, runs: tuple[int, int], rounds: int):
    plan = plan_blocks(baseline_ns, optimized_ns, launches=5, seconds=6.0)
    assert (plan.baseline_runs, plan.optimized_runs) == runs
    assert plan.rounds == rounds
    assert plan.runs("control") == (runs[0], runs[0])
    assert plan.runs("optimized") == runs
    assert plan_blocks(baseline_ns, optimized_ns, launches=5, seconds=60.0).rounds >= rounds
    assert plan.baseline_runs * baseline_ns / 1e9 <= max(2 * BLOCK_SECONDS, baseline_ns / 1e9)


def test_between_its_turns_a_launch_is_stopped_and_on_its_cpu(small: EngineUnderTest, launch):
    cpu = allowed_cpus()[-1]
    launched = launch(small, [cpu])
    process = psutil.Process(launched._process.pid)
    assert launched.wait_ready() == [cpu]
    launched.tell("load")
    launched.tell("warm_up", seconds=0.01, at_most_seconds=0.1)
    assert wait_for(lambda: process.status() == psutil.STATUS_STOPPED)
    threads = [
        Path(f"/proc/{process.pid}/task/{thread.id}/status").read_text() for thread in process.threads()
    ]
    assert all(f"Cpus_allowed_list:\t{cpu}\n" in status for status in threads)
    spent = process.cpu_times()
    time.sleep(0.3)
    assert process.cpu_times() == spent
    assert os.getpgid(process.pid) == process.pid


def test_a_launch_times_what_it_is_told(small: EngineUnderTest, launch):
    launched = launch(small)
    launched.wait_ready()
    loaded = launched.tell("load")
    assert loaded["load_ms"] > 0
    assert loaded["resident_loaded_bytes"] > loaded["resident_before_bytes"]
    warm = launched.tell("warm_up", seconds=0.0, at_most_seconds=5.0)
    assert warm["runs"] == 3  # each feed once
    block = launched.tell("block", runs=7, warm_up_seconds=0.0)
    assert len(block["ns"]) == 7
    assert min(block["ns"]) > 0
    assert block["waited_ns"] is None or block["waited_ns"] >= 0
    assert launched.tell("memory")["peak_bytes"] >= loaded["resident_loaded_bytes"]


def test_an_engine_that_does_not_load_says_why(small: EngineUnderTest, tmp_path: Path, launch):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / small.entry).write_bytes(b"no model")
    launched = launch(EngineUnderTest(small.runtime, broken, small.entry, small.params))
    launched.wait_ready()
    with pytest.raises(InvalidModel) as error:
        launched.tell("load")
    assert error.value.stage
    assert "ONNX Runtime" in error.value.detail


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_the_death_of_a_launch_is_named(small: EngineUnderTest, launch, number: signal.Signals):
    launched = launch(small)
    launched.wait_ready()
    os.kill(launched._process.pid, number)
    with pytest.raises(Crashed, match=f"signal {int(number)}"):
        launched.tell("load")


def test_no_process_outlives_an_error(small: EngineUnderTest, tmp_path: Path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / small.entry).write_bytes(b"no model")
    path = tmp_path / "feeds.npz"
    save_feeds(path, [{"x": np.zeros((1, WIDTH), np.float32)}])
    with pytest.raises(InvalidModel):
        compare_latency(
            small,
            EngineUnderTest(small.runtime, broken, small.entry, small.params),
            path,
            tmp_path / "s",
            seconds=1,
        )
    assert launches_below(tmp_path) == []


def test_a_launch_dies_with_its_parent(small: EngineUnderTest, feeds: Path, tmp_path: Path):
    """The parent is killed while its launch is stopped: nothing stays."""
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        try:
            launched = Launched(small, feeds, allowed_cpus(), tmp_path)
            launched.wait_ready()
            os.write(writing, str(launched._process.pid).encode())
            time.sleep(60)
        finally:
            os._exit(0)
    os.close(writing)
    pid = int(os.read(reading, 20))
    os.close(reading)
    assert psutil.pid_exists(pid)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


def test_cpus_for_threads():
    allowed = allowed_cpus()
    assert choose_cpus({"threads": 1}) == allowed[-1:]
    assert choose_cpus({}) == choose_cpus({"threads": 0}) == choose_cpus({"threads": 10_000})
    assert len(choose_cpus({"threads": 1, "inter_op_threads": 2})) == min(2, len(choose_cpus({})))
    assert set(choose_cpus({})) <= set(allowed)


def test_the_machine_is_described():
    found = machine()
    assert found["cpu"]
    assert found["usable_processors"] >= 1
    assert found["cpu"] in hardware_key()
    assert hardware_key() == hardware_key()


def launches_below(folder: Path) -> list[int]:
    """Processes that run a spec in a folder."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in part for part in process.info["cmdline"] or [])
    ]


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_an_engine_alone_takes_as_long_as_beside_another(
    small: EngineUnderTest, large: EngineUnderTest, feeds: Path, tmp_path: Path
) -> None:
    found = {
        name: time_alone(one, feeds, tmp_path / name, launches=2, seconds=0.4)
        for name, one in (("small", small), ("large", large))
    }
    for seen in found.values():
        assert seen["latency"]["launches"] == 2
        assert seen["latency"]["samples"] >= 4
        assert seen["p50_interval_ms"]["low"] <= seen["p50_interval_ms"]["high"]
        assert seen["variation"] >= 0
        assert seen["peak_memory_bytes"] > 0
    assert found["large"]["latency"]["p50_ms"] > 2 * found["small"]["latency"]["p50_ms"], "ten times the work"
