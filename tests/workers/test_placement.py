"""Several GPUs in one machine: each attempt gets one, and a worker that loses one stops."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings
from app.db import transaction
from app.errors import Unavailable
from app.fleet import devices
from workers import running
from workers.placement import VISIBLE, is_lost, placed
from workers.watch_gpus import GpuWatch

Smi = Callable[[dict[str, str]], Path]
CARDS = {name: f"GPU-{number:032x}" for number, name in enumerate("abc")}
KINDS = {"a": "8.9", "b": "8.9", "c": "9.0"}


def machine(smi: Smi, cards: str = "abc") -> None:
    """A machine with these GPUs."""
    lines = [f"card {name}, {CARDS[name]}, 40000, 580.1, {KINDS[name]}" for name in cards]
    smi({"name": "\n".join(lines)})


def target(*kinds: int, runtime: str = "tensorrt") -> dict[str, Any]:
    return {"runtime": runtime, "params": {"compute_capabilities": list(kinds)}}


@pytest.fixture
def together() -> Iterator[Callable[..., str]]:
    """`together(target)`: the GPU of one more attempt that goes on beside the others."""
    with ExitStack() as stack:
        yield lambda wanted: stack.enter_context(placed(wanted))[VISIBLE]


def test_attempts_spread_over_the_gpus(smi: Smi, burnish_sqlite: Settings, together: Any) -> None:
    machine(smi)
    assert {together(target()) for _ in range(3)} == set(CARDS.values())
    assert together(target(90)) == CARDS["c"]


def test_a_kind_that_is_named_is_kept_to(smi: Smi, burnish_sqlite: Settings, together: Any) -> None:
    machine(smi)
    assert [together(target(90)) for _ in range(2)] == [CARDS["c"]] * 2
    assert {together(target(89)) for _ in range(2)} == {CARDS["a"], CARDS["b"]}


def test_one_that_another_worker_measures_on_comes_last(
    smi: Smi, burnish_sqlite: Settings, together: Any
) -> None:
    machine(smi, "ab")
    with transaction() as session:
        assert devices.acquire(session, running.HOST, CARDS["a"], "job_other/1", 30)
        assert devices.acquire(session, "another-host", CARDS["b"], "job_other/1", 30)
    assert together(target()) == CARDS["b"]
    with transaction() as session:
        devices.release(session, running.HOST, CARDS["a"], "job_other/1")
    assert together(target()) == CARDS["a"]


def test_a_gpu_is_free_again_after_the_attempt(smi: Smi, burnish_sqlite: Settings) -> None:
    machine(smi, "ab")
    for _ in range(3):
        with placed(target()) as environment:
            assert environment == {VISIBLE: CARDS["a"]}


def trains(*processes: int | str) -> dict[str, Any]:
    return {"passes": [{"params": {"distributed": {"processes": count}}} for count in processes]}


def test_a_recipe_that_trains_on_several_gpus_gets_them(
    smi: Smi, burnish_sqlite: Settings, together: Any
) -> None:
    machine(smi)
    with placed(target(), trains(1, 2)) as environment:
        assert environment[VISIBLE] == f"{CARDS['a']},{CARDS['b']}"
        assert not is_lost(environment)
        with placed(target(), trains(2)) as beside:
            assert beside[VISIBLE] == f"{CARDS['a']},{CARDS['c']}", "the least used, as the driver lists them"
        assert together(target()) == CARDS["c"]
        machine(smi, "a")
        assert is_lost(environment), "one of two is enough"
    machine(smi)
    assert together(target()) == CARDS["a"], "they are free again"


def test_one_process_for_each_gpu_of_a_kind(smi: Smi, burnish_sqlite: Settings, together: Any) -> None:
    machine(smi)
    with placed(target(), trains("auto")) as environment:
        assert environment[VISIBLE] == f"{CARDS['a']},{CARDS['b']}", (
            "not with another kind: it would be waited for"
        )
    with placed({"runtime": "onnxruntime-cpu", "params": {}}, trains("auto")) as environment:
        assert environment == {}


def test_fewer_gpus_than_a_recipe_trains_on(smi: Smi, burnish_sqlite: Settings) -> None:
    machine(smi)
    words = r"trains on 3 GPUs, and this worker's machine has 2 of compute capability 8\.9"
    with pytest.raises(Unavailable, match=words), placed(target(89), trains(3)):
        pass
    with placed(target(), trains(3)) as environment:
        assert environment[VISIBLE] == ",".join(CARDS.values())


def test_what_needs_no_gpu_gets_none(smi: Smi, burnish_sqlite: Settings) -> None:
    machine(smi)
    with placed({"runtime": "onnxruntime-cpu", "params": {}}) as environment:
        assert environment == {}
    with placed(target(75, runtime="tensorrt-rtx")) as environment:  # built here, measured elsewhere
        assert environment == {}
    assert not is_lost({})


def test_a_machine_without_such_a_gpu_says_so(smi: Smi, burnish_sqlite: Settings) -> None:
    machine(smi, "a")
    with pytest.raises(Unavailable, match=r"no GPU of compute capability 9\.0"), placed(target(90)):
        pass
    machine(smi, "")
    with pytest.raises(Unavailable, match="has no GPU any more"), placed(target()):
        pass


def test_a_gpu_that_falls_away_stops_the_worker(smi: Smi, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append(number))
    machine(smi, "ab")
    watch = GpuWatch([{"uuid": CARDS["a"]}, {"uuid": CARDS["b"]}])
    try:
        for cards, stopped in (("ab", False), ("b", False), ("ab", False), ("b", False), ("b", True)):
            machine(smi, cards)
            watch.look()
            assert running.stopping.is_set() == stopped, "once is no proof: the driver may be slow to answer"
        assert is_lost({VISIBLE: CARDS["a"]})
        assert not is_lost({VISIBLE: CARDS["b"]})
        watch.look()
        assert sent == [signal.SIGTERM]
    finally:
        running.stopping.clear()
        running.gpu_lost.clear()
