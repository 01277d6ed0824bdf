"""Compiled code profiled: each kernel is told with the layers that it computes."""

import shutil
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest

from app.catalog.runtimes import RUNTIMES
from tests.workers.profiling import torch_subjects
from tests.workers.profiling.subjects import QUICK, Seen, Subject
from tests.workers.profiling.torch_traces import events_of, path_of, stacks_of, tensorboard_names
from workers.profiling.profilers import registry
from workers.profiling.recorded import Instrumenting, Recorded
from workers.profiling.torch_inductor_profile import BARE_NOTE, BETWEEN, KERNELS
from workers.profiling.turns import typical
from workers.runtimes.base import Engine
from workers.surgery.program_structure import of_program
from workers.torch.inductor_kernels import Kernel, called
from workers.torch.program import load_program

CPU = "torch-inductor-cpu"
PARAMS = RUNTIMES[CPU].params(threads=1)
# layers of a BERT of which compiled code has nothing: rows of tables that no input chooses, and what no output needs
GONE = {
    "encoder.embeddings.position_embeddings",
    "encoder.embeddings.token_type_embeddings",
    "encoder.pooler.dense",
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return torch_subjects.small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def branching(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return torch_subjects.branching(tmp_path_factory.mktemp("branching"))


def profiled(engine: Engine, subject: Subject, folder: Path) -> Recorded:
    folder.mkdir()
    return registry.alone(CPU).profile(engine, PARAMS, subject.feeds, QUICK, folder)


def instrumented(subject: Subject, folder: Path) -> Seen:
    profiler = registry.alone(CPU)
    assert isinstance(profiler, Instrumenting)
    (folder / "engine").mkdir()
    engine = profiler.instrumented(subject.original, PARAMS, folder / "engine")
    return Seen(engine, PARAMS, profiled(engine, subject, folder / "seen"))


@pytest.fixture(scope="module")
def small_seen(small, tmp_path_factory) -> Seen:
    return instrumented(small, tmp_path_factory.mktemp("instrumented"))


@pytest.fixture(scope="module")
def bert_seen(bert, tmp_path_factory) -> Seen:
    return instrumented(bert, tmp_path_factory.mktemp("instrumented"))


@pytest.fixture(params=["small", "bert"])
def looked(request) -> tuple[Subject, Seen]:
    return request.getfixturevalue(request.param), request.getfixturevalue(f"{request.param}_seen")


def test_every_layer_is_in_one_kernel(looked):
    subject, seen = looked
    listed = {layer["name"] for layer in of_program(load_program(subject.original.path))["layers"]}

    named = Counter(name for row in seen.recorded.rows for name in row.sources)
    untold = listed - set(named)
    assert untold in (set(), GONE & listed)
    assert all(name in " ".join(seen.recorded.notes) for name in untold)
    assert set(named.values()) == {1}
    products = [row for row in seen.recorded.rows if (row.place or "").startswith("aoti_torch_cpu_")]
    assert products
    assert all(row.sources for row in products)
    assert {row.precision for row in products} == {"fp32"}


def test_a_batch_norm_and_what_follows_are_told_with_their_convolution(small_seen):
    rows = {row.sources[0]: row for row in small_seen.recorded.rows if row.sources}

    assert rows["stem.0"].sources == ("stem.0", "stem.1", "relu")
    assert rows["block.0"].sources == ("block.0", "block.1", "add", "relu_1")
    assert "convolution" in rows["stem.0"].operator


def test_rows_add_up_to_the_runs(looked):
    recorded = looked[1].recorded

    runs = fmean(recorded.run_ms[number] for number in typical(recorded.run_ms))
    assert sum(row.mean_ms for row in recorded.rows) == pytest.approx(runs, rel=0.1)
    assert recorded.rows[-1].name == BETWEEN
    assert sum(row.mean_ms for row in recorded.rows if row.sources) > 0.3 * runs


def test_traces_are_what_viewers_open(looked):
    recorded = looked[1].recorded

    text = path_of(recorded, "chrome").read_text(encoding="utf-8")
    names = {event["name"] for event in events_of(text)}
    assert all(any(name.endswith(row.place) for name in names) for row in recorded.rows if row.sources)
    assert {row.place for row in recorded.rows if row.operator == "_linear_pointwise"} <= tensorboard_names(
        path_of(recorded, "tensorboard")
    )
    stacks = stacks_of(path_of(recorded, "flamegraph"))
    assert sum(stacks.values()) == pytest.approx(sum(row.mean_ms for row in recorded.rows))
    assert recorded.peak_memory_bytes
    assert recorded.memory[0]["bytes"] <= recorded.peak_memory_bytes


def test_an_engine_without_marks_says_what_it_hides(small, small_seen, tmp_path):
    root = shutil.copytree(small_seen.engine.root, tmp_path / "engine", ignore=lambda *_: [KERNELS])
    recorded = profiled(Engine(root, small_seen.engine.entry), small, tmp_path / "seen")

    assert BARE_NOTE in recorded.notes
    assert not any(row.sources for row in recorded.rows)
    assert "mkldnn__convolution_pointwise" in {row.operator for row in recorded.rows}


@pytest.mark.slow
def test_kernels_in_branches_are_told_by_name(branching, tmp_path):
    recorded = instrumented(branching, tmp_path).recorded

    rows = {row.sources[0]: row for row in recorded.rows if row.sources}
    assert rows["reader"].operator == "mkldnn_rnn_layer"
    inside = next(row for row in recorded.rows if row.name == "aoti_torch_cpu_addmm_out")
    assert (inside.calls, inside.sources) == (1, ())
    assert any("control flow" in note for note in recorded.notes)


def test_calls_are_told_by_their_order_where_all_of_a_name_ran():
    kernels = [Kernel("cpp_a", 1, ()), Kernel("aoti_b", 2, ()), Kernel("aoti_b", 3, ())]

    assert called(kernels, ["graph_0_cpp_a", "aoti_b", "aten::to", "aoti_b"]) == [
        kernels[0], kernels[1], None, kernels[2]
    ]  # fmt: skip
    assert called(kernels, ["graph_0_cpp_a", "aoti_b", "graph_0_cpp_a"]) == [kernels[0], None, kernels[0]]
