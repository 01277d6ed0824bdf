"""Eager PyTorch profiled: real programs, really run."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from app.catalog.runtimes import RUNTIMES
from tests.workers.profiling import torch_subjects
from tests.workers.profiling.subjects import QUICK, Seen, Subject, look
from tests.workers.profiling.torch_subjects import NARROW, ROWS, WIDE
from tests.workers.profiling.torch_traces import events_of, path_of, stacks_of, tensorboard_names
from workers.profiling.profilers import registry
from workers.profiling.torch_eager_profile import PYTHON
from workers.profiling.turns import typical
from workers.surgery.program_structure import of_program
from workers.torch.program import load_program

CPU = "torch-eager"
LEAST_SHARE = {
    "bert": 0.3,
    "branching": 0.2,
    "resnet": 0.9,
}  # of a run, of layers: Python is slow beside small ones
TENSOR = ROWS * WIDE * 4  # bytes of each of the two that `Wide` holds at once


@pytest.fixture(scope="module")
def branching(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return torch_subjects.branching(tmp_path_factory.mktemp("branching"))


@pytest.fixture(scope="module", params=sorted(LEAST_SHARE))
def looked(request, tmp_path_factory) -> tuple[Subject, Seen]:
    subject = request.getfixturevalue(request.param)
    return subject, look(CPU, subject.original, subject.feeds, tmp_path_factory.mktemp("seen"))


def test_rows_add_up_to_the_runs(looked, request):
    """But for what the stopwatch costs, which is told."""
    recorded = looked[1].recorded

    told = re.search(r"without the ([\d.e+-]+) ms", recorded.notes[0])
    assert told is not None
    total = sum(row.mean_ms for row in recorded.rows) + float(told[1])
    assert total == pytest.approx(
        fmean(recorded.run_ms[number] for number in typical(recorded.run_ms)), rel=0.1
    )
    share = sum(row.mean_ms for row in recorded.rows if row.sources) / total
    assert LEAST_SHARE[request.node.callspec.params["looked"]] < share <= 1


def test_every_listed_layer_is_one_row(looked):
    subject, seen = looked
    listed = {
        layer["name"]: layer["kind"] for layer in of_program(load_program(subject.original.path))["layers"]
    }

    named = Counter(name for row in seen.recorded.rows for name in row.sources)
    assert set(listed) <= set(named)
    assert set(named.values()) == {1}
    by_layer = {name: row for row in seen.recorded.rows for name in row.sources}
    layers = {name: kind for name, kind in listed.items() if kind[0].isupper()}
    assert layers
    assert {name: by_layer[name].operator for name in layers} == layers
    assert all(by_layer[name].output is not None for name in listed)
    assert all(by_layer[name].precision == "fp32" for name in listed)
    assert all((by_layer[name].place or "").startswith("aten::") for name in layers)


def test_a_branch_counts_as_often_as_it_is_taken(branching, tmp_path):
    plan = replace(QUICK, least_runs=40, most_runs=40)
    recorded = look(CPU, branching.original, branching.feeds, tmp_path, plan).recorded

    rows = {row.sources[0]: row for row in recorded.rows if row.sources}
    up, down = rows["true_graph_0.linear"], rows["false_graph_0.linear"]
    assert up.calls + down.calls == pytest.approx(1)
    assert 0 < up.calls < 1
    assert rows["false_graph_0.tanh"].calls == pytest.approx(down.calls)
    assert rows["reader"].operator == "LSTM"
    assert rows["reader"].calls == 1
    outer = next(row for row in recorded.rows if row.operator == "cond")
    assert outer.mean_ms < fmean(recorded.run_ms) / 2, "without what its branches took"


def test_the_same_runs_give_the_same_rows(branching, tmp_path):
    plan = replace(QUICK, least_runs=8, most_runs=8)
    first, second = (
        look(CPU, branching.original, branching.feeds[:1], tmp_path / name, plan).recorded for name in "ab"
    )

    assert [replace(row, mean_ms=0, place=None) for row in first.rows] == [
        replace(row, mean_ms=0, place=None) for row in second.rows
    ]
    assert len(first.run_ms) == len(second.run_ms) == 8
    assert (first.peak_memory_bytes, first.memory) == (second.peak_memory_bytes, second.memory)


def test_the_peak_of_memory_is_that_of_the_tensors_held_at_once(tmp_path):
    subject = torch_subjects.wide(tmp_path / "wide")
    recorded = look(CPU, subject.original, subject.feeds, tmp_path / "seen").recorded

    assert 2 * TENSOR <= recorded.peak_memory_bytes <= 2 * TENSOR + ROWS * NARROW * 4
    by_operator = {entry["operator"]: entry["bytes"] for entry in recorded.memory}
    assert by_operator["aten::relu"] == recorded.peak_memory_bytes
    assert by_operator["Linear"] < recorded.peak_memory_bytes
    counted = [event for event in events_of(path_of(recorded, "chrome").read_text()) if event["ph"] == "C"]
    assert max(event["args"]["bytes"] for event in counted) >= recorded.peak_memory_bytes


def test_traces_are_what_viewers_open(looked):
    recorded = looked[1].recorded

    text = path_of(recorded, "chrome").read_text(encoding="utf-8")
    ranges = Counter(event["name"] for event in events_of(text) if event["ph"] == "X")
    layers = [row for row in recorded.rows if row.sources and row.operator[0].isupper() and row.calls == 1]
    assert ranges["run"] == sum(count for name, count in ranges.items() if name.startswith("ProfilerStep"))
    assert layers
    assert all(ranges[row.sources[0]] == ranges["run"] for row in layers)
    assert set(ranges) <= tensorboard_names(path_of(recorded, "tensorboard"))
    assert "aten::addmm" in path_of(recorded, "runtime").read_text(encoding="utf-8")


def test_the_flame_graph_shares_out_the_rows(looked):
    recorded = looked[1].recorded

    stacks = stacks_of(path_of(recorded, "flamegraph"))
    assert sum(stacks.values()) == pytest.approx(sum(row.mean_ms for row in recorded.rows))
    for row in recorded.rows:
        if row.sources and row.operator == "Linear":
            frames = tuple(row.sources[0].split("."))
            inside = sum(spent for stack, spent in stacks.items() if stack[: len(frames)] == frames)
            assert inside == pytest.approx(row.mean_ms)
            assert any(stack[len(frames) :][:1] == ("aten::linear",) for stack in stacks)
    assert (PYTHON,) in stacks


def test_an_engine_that_does_not_load_says_so(tmp_path: Path):
    from app.errors import BurnishError
    from workers.runtimes.base import Engine

    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.pt2").write_bytes(b"no program")
    (tmp_path / "engine.json").write_text('{"format": "torch-export", "entry": "model.pt2", "declared": {}}')
    params = RUNTIMES[CPU].params()
    with pytest.raises(BurnishError, match=r"no \.pt2"):
        registry.alone(CPU).profile(Engine(tmp_path, "engine.json"), params, [{}], QUICK, tmp_path)
