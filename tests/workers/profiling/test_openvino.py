"""OpenVINO's counters, joined with the engine's network: real engines, really run."""

import statistics
from collections import Counter

import pytest

from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.errors import Unavailable
from tests.workers.engines.networks import ArraySamples
from tests.workers.profiling.subjects import QUICK, STEPS, Seen, Subject, look
from tests.workers.profiling.traces import checked
from workers import passes
from workers.context import PassContext
from workers.onnx_files import save_onnx
from workers.profiling.lineage import lineage
from workers.profiling.onnx_lineage import onnx_graph
from workers.profiling.openvino_lineage import openvino_graph
from workers.profiling.openvino_profile import ONE_BY_ONE
from workers.profiling.profilers import registry
from workers.profiling.recorded import Plan
from workers.profiling.turns import typical
from workers.runtimes.cpu_features import cpu_features

CPU = "openvino-cpu"
LEAST_SHARE = {"resnet": 0.85, "bert": 0.4, "recurrent": 0.3}
HEAVY = frozenset(("Conv", "MatMul", "Gemm", "LSTM"))


@pytest.fixture(scope="module", params=sorted(LEAST_SHARE))
def seen(request, tmp_path_factory) -> tuple[str, Subject, Seen]:
    subject = request.getfixturevalue(request.param)
    return request.param, subject, look(CPU, subject.onnx, subject.feeds, tmp_path_factory.mktemp("seen"))


def computed(looked: Seen, subject: Subject) -> dict[str, tuple[str, ...]]:
    """By row, the nodes of the ONNX model."""
    base = onnx_graph(subject.onnx.load_onnx(weights=False))
    known = {name for one in base.all() for name in one.outputs}
    found = lineage(openvino_graph(looked.engine.path, known), base)
    return {
        row.name: tuple(node for source in row.sources for node in found.get(source, ()))
        for row in looked.recorded.rows
    }


def test_rows_add_up_to_the_runs(seen):
    name, _, looked = seen
    recorded = looked.recorded

    runs = statistics.mean(recorded.run_ms[number] for number in typical(recorded.run_ms))
    assert LEAST_SHARE[name] <= sum(row.mean_ms for row in recorded.rows) / runs <= 1.05


def test_warming_up_does_not_count(bert, tmp_path):
    """The first run makes kernels, which takes dozens of times as long; counters are means since then."""
    few = Plan(seconds=0, warm_up_seconds=0, least_runs=5, most_runs=5)
    recorded = look(CPU, bert.onnx, bert.feeds, tmp_path, few).recorded

    assert sum(row.mean_ms for row in recorded.rows) < 1.5 * statistics.median(recorded.run_ms)


def test_heavy_nodes_stand_in_one_row(seen):
    _, subject, looked = seen
    rows = Counter(node for nodes in computed(looked, subject).values() for node in nodes)

    heavy = [
        one.label for one in onnx_graph(subject.onnx.load_onnx(weights=False)).all() if one.operator in HEAVY
    ]
    assert heavy
    assert {label: rows[label] for label in heavy} == dict.fromkeys(heavy, 1)


def test_rows_tell_kernels_types_and_shapes(seen):
    _, _, looked = seen
    rows = looked.recorded.rows

    assert len({row.name for row in rows}) == len(rows)
    assert all(row.place and row.calls == 1 for row in rows)
    compute = [row for row in rows if row.operator in ("Convolution", "FullyConnected", "MatMul", "RNNSeq")]
    assert compute
    assert {row.precision for row in compute} == {"fp32"}
    assert all(row.output for row in compute)


def test_control_flow_is_one_row_with_all_that_it_runs(recurrent, tmp_path):
    looked = look(CPU, recurrent.onnx, recurrent.feeds, tmp_path)

    rows = {row.name: row for row in looked.recorded.rows if row.operator == "TensorIterator"}
    assert len(rows) == 1
    inside = computed(looked, recurrent)[next(iter(rows))]
    assert {"loop", "loop/product", "step_bend", "step_branch", "negate", "bend"} <= set(inside)
    assert STEPS > 1


def test_a_trace_lays_rows_one_behind_another(seen):
    _, _, looked = seen
    events = checked(looked.recorded.traces[0].path)

    shown = [event["name"] for event in events if event["cat"] != "run"]
    assert shown == [row.name for row in looked.recorded.rows]
    whole = next(event for event in events if event["cat"] == "run")
    assert whole["dur"] == pytest.approx(1000 * sum(row.mean_ms for row in looked.recorded.rows), abs=1)


def test_quantized_layers_are_told(resnet, tmp_path):
    out = tmp_path / "quantized"
    out.mkdir()
    spec = PASSES["quantize-openvino"]
    data = ArraySamples({"images": resnet.feeds[0]["images"]})
    model = passes.registry.get(spec.name)(
        resnet.onnx, spec.params(), PassContext(out=out, samples={"calibration": data})
    )
    looked = look(CPU, model, resnet.feeds, tmp_path / "seen")

    convolutions = [row for row in looked.recorded.rows if row.operator == "Convolution"]
    assert len(convolutions) == 20
    assert {row.precision for row in convolutions} == {"int8"}


@pytest.mark.skipif("avx512_bf16" not in cpu_features(), reason="has no instructions for bf16")
def test_what_floating_point_is_computed_in_is_told(bert, tmp_path):
    rows = look(CPU, bert.onnx, bert.feeds, tmp_path, inference_precision="bf16").recorded.rows

    assert {row.precision for row in rows if row.operator == "FullyConnected"} == {"bf16"}


def test_several_streams_are_profiled_one_by_one(recurrent, tmp_path):
    one = look(CPU, recurrent.onnx, recurrent.feeds, tmp_path / "one").recorded
    several = look(CPU, recurrent.onnx, recurrent.feeds, tmp_path / "more", hint="throughput").recorded

    assert ONE_BY_ONE not in one.notes
    assert ONE_BY_ONE in several.notes
    assert [row.name for row in several.rows] == [row.name for row in one.rows]


def test_names_with_commas_are_found(recurrent, tmp_path):
    model = recurrent.onnx.load_onnx()
    model.graph.node[0].name, model.graph.node[2].name = "lstm,first", "loop,a,b"
    handle = save_onnx(model, tmp_path / "model")
    looked = look(CPU, handle, recurrent.feeds, tmp_path / "seen")

    found = computed(looked, Subject(handle, handle, recurrent.feeds))
    assert {"lstm,first", "loop,a,b"} <= {node for nodes in found.values() for node in nodes}


@pytest.mark.parametrize("name", ["openvino-gpu", "openvino-npu", "onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_device_that_is_not_there_is_told(name, recurrent, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "0")  # restored afterwards
    looked = look(
        CPU if name.startswith("openvino") else "onnxruntime-cpu", recurrent.onnx, recurrent.feeds, tmp_path
    )

    with pytest.raises(Unavailable):
        registry.alone(name).profile(
            looked.engine, RUNTIMES[name].params(), recurrent.feeds, QUICK, tmp_path / "seen"
        )
