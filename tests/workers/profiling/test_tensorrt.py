"""TensorRT's profilers as far as there need be no GPU: the real library's callbacks, and what the inspector writes, as documented."""

import json
from pathlib import Path

import pytest

from app.catalog.runtimes import RUNTIMES
from app.errors import Unavailable
from tests.workers.profiling.subjects import QUICK
from tests.workers.profiling.traces import checked
from workers import runtimes
from workers.gpu import gpus
from workers.profiling.chrome import laid_out
from workers.profiling.origin import with_sources
from workers.profiling.profilers import registry
from workers.profiling.recorded import Row
from workers.profiling.tensorrt_profile import rows_of
from workers.runtimes.base import Engine
from workers.tensorrt.clock import layer_clock
from workers.tensorrt.library import library

RTX = "tensorrt-rtx"
# in the form of https://docs.nvidia.com/deeplearning/tensorrt/10.16.1/inference-library/engine-tools.html
TOLD = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv1 + relu1",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "x", "Dimensions": [1, 3, 8, 8], "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{"Name": "x", "Dimensions": [1, 3, 8, 8], "Format/Datatype": "Row major Int8 format"}],
            "TacticValue": "0x3ea",
            "Metadata": "",
        },
        {
            "Name": "conv1 + relu1",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Dimensions": [1, 3, 8, 8], "Format/Datatype": "Thirty-two wide Int8 format"}],
            "Outputs": [{"Name": "a", "Dimensions": [1, 16, 8, 8], "Format/Datatype": "Thirty-two wide Int8 format"}],
            "TacticName": "sm80_xmma_fprop",
            "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]",
        },
        {
            "Name": "head",
            "LayerType": "Myelin",
            "Inputs": [{"Name": "a", "Dimensions": [1, 16, 8, 8], "Format/Datatype": "Row major linear FP16 format"}],
            "Outputs": [{"Name": "y", "Dimensions": [-1, 10], "Format/Datatype": "Row major linear FP16 format"}],
            "Metadata": "[ONNX Layer: pool[0]]\x1e[ONNX Layer: head]",
        },
    ]
}  # fmt: skip
COPY, CONV, HEAD = (layer["Name"] for layer in TOLD["Layers"])
RUNS = [[(COPY, 0.01), (CONV, 0.2), (HEAD, 0.04)], [(COPY, 0.03), (CONV, 0.4), (HEAD, 0.02), (HEAD, 0.02)]]


def test_the_library_calls_what_counts_time():
    """The callback of the real library, called through its base class as the library does."""
    trt = library(RTX).trt
    clock = layer_clock(library(RTX))
    assert isinstance(clock, trt.IProfiler)

    trt.IProfiler.report_layer_time(clock, "conv", 0.5)
    clock.report_layer_time("relu", 0.25)
    assert clock.take() == [("conv", 0.5), ("relu", 0.25)]
    assert clock.take() == []


def test_rows_join_times_and_the_inspector():
    rows = rows_of(RUNS, TOLD)

    assert [row.name for row in rows] == [COPY, CONV, HEAD]
    assert [row.mean_ms for row in rows] == pytest.approx([0.02, 0.3, 0.04])
    assert [row.calls for row in rows] == [1, 1, 1.5]
    assert [row.operator for row in rows] == ["Reformat", "CaskConvolution", "Myelin"]
    assert [row.precision for row in rows] == ["fp32", "int8", "fp16"]
    assert [row.place for row in rows] == ["0x3ea", "sm80_xmma_fprop", None]
    assert [row.output for row in rows] == [(1, 3, 8, 8), (1, 16, 8, 8), None]
    assert rows[1].sources == ("conv1", "relu1")
    assert rows[2].sources == ("pool[0]", "head")


def test_layers_without_details_go_by_their_names():
    rows = rows_of(RUNS, {"Layers": [COPY, CONV, HEAD]})

    assert {row.operator for row in rows} == {"unknown"}
    assert rows[1].sources == ("conv1", "relu1")
    assert rows[1].precision is rows[1].output is None
    assert rows_of(RUNS, {})[1] == rows[1]


def test_sources_are_nodes_of_the_model(recurrent, tmp_path):
    rows = [
        Row("lstm + squeeze", "Myelin", 1, 0.1, sources=("lstm", "squeeze")),
        Row("Reformatting CopyNode", "Reformat", 1, 0.1, sources=("Reformatting CopyNode",)),
    ]
    found = with_sources(rows, Engine(tmp_path, "engine.plan"), recurrent.onnx)

    assert [row.sources for row in found] == [("lstm", "squeeze"), ()]


def test_a_trace_lays_layers_one_behind_another(tmp_path):
    trace = laid_out(rows_of(RUNS, TOLD), tmp_path / "trace.json", RTX)

    events = [event for event in checked(trace.path) if event["cat"] != "run"]
    assert [event["name"] for event in events] == [COPY, CONV, HEAD]
    assert [event["ts"] for event in events] == pytest.approx([0, 20, 320])
    process = next(
        one for one in json.loads(trace.path.read_text())["traceEvents"] if one["name"] == "process_name"
    )
    assert process["args"]["name"] == RTX


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
def test_without_a_gpu_there_is_no_profile(resnet, tmp_path: Path):
    engine_folder = tmp_path / "engine"
    engine_folder.mkdir()
    params = RUNTIMES[RTX].params()
    engine = runtimes.registry.alone(RTX).build(resnet.onnx, params, engine_folder)

    with pytest.raises(Unavailable, match="GPU"):
        registry.alone(RTX).profile(engine, params, resnet.feeds, QUICK, tmp_path)


def test_every_runtime_of_the_library_has_a_profiler():
    assert {"tensorrt", RTX} <= set(registry.all())
