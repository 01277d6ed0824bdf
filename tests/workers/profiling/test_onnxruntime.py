"""ONNX Runtime's profiler, joined with the engine's graph: real engines, really run."""

import json
import statistics
from collections import Counter

import pytest

from app.catalog.runtimes import RUNTIMES
from tests.workers.profiling.subjects import QUICK, STEPS, Seen, Subject, look
from tests.workers.profiling.traces import checked
from workers.onnx_files import save_onnx
from workers.profiling import onnxruntime_profile
from workers.profiling.onnx_labels import labelled
from workers.profiling.onnxruntime_profile import engine_graph
from workers.profiling.onnxruntime_rows import rows
from workers.profiling.onnxruntime_trace import read_events, runs_of
from workers.profiling.turns import typical
from workers.runtimes.onnxruntime_cpu import OnnxRuntimeCpu
from workers.runtimes.onnxruntime_session import LoadedOnnxRuntime

CPU = "onnxruntime-cpu"
# the least share of a run that its nodes take: small nodes are rounded down, and telling of each takes a few microseconds
LEAST_SHARE = {"resnet": 0.9, "bert": 0.5, "recurrent": 0.5}


@pytest.fixture(scope="module", params=sorted(LEAST_SHARE))
def seen(request, tmp_path_factory) -> tuple[str, Subject, Seen]:
    subject = request.getfixturevalue(request.param)
    return request.param, subject, look(CPU, subject.onnx, subject.feeds, tmp_path_factory.mktemp("seen"))


def test_rows_add_up_to_the_runs(seen):
    name, _, looked = seen
    recorded = looked.recorded

    runs = statistics.mean(recorded.run_ms[number] for number in typical(recorded.run_ms))
    assert LEAST_SHARE[name] <= sum(row.mean_ms for row in recorded.rows) / runs <= 1


def test_every_node_is_one_row(seen):
    _, _, looked = seen
    graph = labelled(engine_graph(looked.engine).graph)
    nodes = {
        label: node
        for level in graph.levels()
        for label, node in zip(level.labels, level.graph.node, strict=True)
    }

    found = {row.name: row for row in looked.recorded.rows}
    assert len(found) == len(looked.recorded.rows)
    assert set(found) == set(nodes)
    assert all(row.operator == nodes[label].op_type for label, row in found.items())
    assert all(found[label].calls == 1 for label in graph.labels)
    assert {row.place for row in found.values()} == {"CPUExecutionProvider"}


def test_nodes_inside_control_flow_count_once(recurrent, tmp_path):
    recorded = look(CPU, recurrent.onnx, recurrent.feeds, tmp_path).recorded

    found = {row.name: row for row in recorded.rows}
    assert found["loop"].calls == 1
    assert {found[name].calls for name in ("loop/product", "step_bend", "step_branch")} == {STEPS}
    assert found["negate"].calls > 0
    assert found["bend"].calls > 0
    assert found["negate"].calls + found["bend"].calls == pytest.approx(STEPS)
    assert found["loop"].precision is found["loop"].moved_bytes is None
    assert any("control flow" in note for note in recorded.notes)


def test_rows_tell_types_shapes_and_bytes(resnet, recurrent, tmp_path):
    first = look(CPU, resnet.onnx, resnet.feeds, tmp_path / "resnet").recorded.rows[0]
    assert (first.operator, first.precision, first.output) == ("Conv", "fp32", (1, 64, 112, 112))
    assert first.moved_bytes == 4 * (3 * 224 * 224 + 64 * 3 * 7 * 7 + 64 + 64 * 112 * 112)

    inner = {
        row.name: row for row in look(CPU, recurrent.onnx, recurrent.feeds, tmp_path / "r").recorded.rows
    }
    assert inner["loop/product"].moved_bytes == STEPS * 4 * (256 + 256 * 256 + 256)


def test_warming_up_does_not_count(recurrent, tmp_path, monkeypatch):
    runs = Counter()
    real = LoadedOnnxRuntime.run

    def counted(self, feeds):
        runs[self] += 1
        return real(self, feeds)

    monkeypatch.setattr(LoadedOnnxRuntime, "run", counted)
    recorded = look(CPU, recurrent.onnx, recurrent.feeds, tmp_path).recorded

    assert max(runs.values()) > len(recorded.run_ms) == QUICK.most_runs
    whole = [event for event in checked(recorded.traces[0].path) if event["cat"] == "run"]
    assert 1 <= len(whole) <= len(recorded.run_ms)


def test_a_trace_holds_what_a_viewer_shows(seen):
    _, _, looked = seen
    events = checked(looked.recorded.traces[0].path)

    shown = {event["name"] for event in events if event["cat"] != "run"}
    assert shown == {row.name for row in looked.recorded.rows}
    assert all(
        event["args"]["provider"] == "CPUExecutionProvider" for event in events if event["cat"] != "run"
    )


def test_a_session_writes_no_more_than_it_can_hold(recurrent, tmp_path, monkeypatch):
    monkeypatch.setattr(onnxruntime_profile, "MOST_EVENTS", 250)
    recorded = look(CPU, recurrent.onnx, recurrent.feeds, tmp_path).recorded

    assert 0 < len(recorded.run_ms) < QUICK.least_runs
    assert any("events" in note for note in recorded.notes)
    assert {row.name: row.calls for row in recorded.rows}["loop/product"] == STEPS


def test_an_engine_in_the_ort_format_has_the_same_rows(recurrent, tmp_path):
    onnx = look(CPU, recurrent.onnx, recurrent.feeds, tmp_path / "onnx").recorded.rows
    ort = look(CPU, recurrent.onnx, recurrent.feeds, tmp_path / "ort", engine_format="ort").recorded.rows

    assert sorted((row.name, row.operator) for row in ort) == sorted((row.name, row.operator) for row in onnx)


def test_branches_side_by_side_are_told(bert, tmp_path):
    looked = look(
        CPU, bert.onnx, bert.feeds, tmp_path, execution_mode="parallel", inter_op_threads=2, threads=2
    )

    graph = labelled(engine_graph(looked.engine).graph)
    assert {row.name for row in looked.recorded.rows} == set(graph.labels)
    checked(looked.recorded.traces[0].path)


def test_names_that_break_the_trace_are_mended(recurrent, tmp_path):
    model = recurrent.onnx.load_onnx()
    model.graph.node[0].name = 'a "quoted" \\name'
    looked = look(CPU, save_onnx(model, tmp_path / "model"), recurrent.feeds, tmp_path / "seen")
    assert 'a "quoted" \\name' in {row.name for row in looked.recorded.rows}
    checked(looked.recorded.traces[0].path)


def test_memory_is_that_of_tensors(seen):
    _, _, looked = seen
    recorded = looked.recorded

    assert recorded.peak_memory_bytes >= max(entry["bytes"] for entry in recorded.memory) > 0
    assert [entry["bytes"] for entry in recorded.memory] == sorted(
        (entry["bytes"] for entry in recorded.memory), reverse=True
    )


@pytest.fixture(scope="module")
def raw(recurrent, tmp_path_factory):
    """What ONNX Runtime wrote of two runs, and the graph."""
    folder = tmp_path_factory.mktemp("raw")
    runtime, params = OnnxRuntimeCpu(), RUNTIMES[CPU].params(threads=1)
    engine = runtime.build(recurrent.onnx, params, folder)
    options = runtime.options(params)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "raw")
    session = runtime.open(engine, params, options)
    for feeds in recurrent.feeds[:2]:
        session.run(feeds)
    return read_events(session.end_profiling()), labelled(engine_graph(engine).graph)


def test_the_order_of_events_does_not_matter(raw):
    """Newer releases write events in the order in which they began."""
    events, graph = raw

    def told(found):
        return [
            [(call.label, call.start_us, [one.label for one in call.inner]) for call in run.all()]
            for run in runs_of(found, graph)
        ]

    by_start = sorted(events, key=lambda event: event["ts"])
    assert by_start != events
    assert told(by_start) == told(events)


def test_kernels_of_a_gpu_take_the_place_of_the_time_that_launches_took(raw):
    """As builds of ONNX Runtime with CUPTI write them (`gpu_profiler_common.h`); none could be run here."""
    events, graph = raw
    node = next(event for event in events if event["name"] == "lstm_kernel_time")
    kernel = {
        "cat": "Kernel", "pid": node["pid"], "tid": 7, "dur": 40, "ts": node["ts"] + 1, "ph": "X", "name": "void cudnn",
        "args": {"op_name": "LSTM", "parent_name": "lstm_kernel_time", "stream": "7"},
    }  # fmt: skip
    runs = runs_of([*events, kernel, {**kernel, "ts": kernel["ts"] + 2}], graph)

    assert {row.name: row for row in rows(runs, graph)}["lstm"].mean_ms == pytest.approx(80 / 2 / 1000)
    assert json.dumps([kernel["name"] for kernel in runs[0].kernels]) == '["void cudnn", "void cudnn"]'
