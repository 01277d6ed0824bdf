"""Real engines, built ahead of time by TensorRT for RTX, and what is told where none can be built."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.catalog.runtimes import RUNTIMES
from app.errors import BurnishError, InvalidModel, InvalidParams, Unavailable, UnsupportedOperator
from tests.workers.tensorrt.networks import KINDS, Exported
from tests.workers.tensorrt.precisions import PASS, RTX, build, in_precision
from workers import runtimes
from workers.gpu import gpus
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx
from workers.probe import try_runtime
from workers.tensorrt.build import configure
from workers.tensorrt.library import library

Network = Callable[..., Exported]
NO_GPU_HERE = pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
BAD_RANGES: list[tuple[dict[str, Any], str, str]] = [
    ({"z": [(1, 3, 16, 16)] * 3}, "profiles[0].inputs.z", "does not have"),
    ({"x": [(1, 3, 16)] * 3}, "profiles[0].inputs.x", "3 dimensions"),
    ({"x": [(1, 4, 16, 16)] * 3}, "profiles[0].inputs.x.min[1]", "dimension 1 of 'x' is 3"),
]


@pytest.mark.parametrize("shapes", ["static", "dynamic"])
@pytest.mark.parametrize("precision", list(PASS))
@pytest.mark.parametrize("kind", KINDS)
def test_builds(kind: str, precision: str, shapes: str, network: Network, tmp_path: Path) -> None:
    model = in_precision(network(kind, shapes), precision, tmp_path / "model")
    engine = build(model, tmp_path / "engine", compute_capabilities=(89,))

    assert engine.path.stat().st_size > 10_000
    counts = engine.facts["compute"]
    assert counts.get(precision.split(" ")[0], 0) >= 1, counts
    assert engine.facts["compute_capabilities"] == ["8.9"]
    free = shapes == "dynamic"
    assert [set(one) for one in engine.facts["profiles"]] == ([{"x"}] if free else [])
    (given,) = engine.facts["signature"]["inputs"]
    assert (given["name"], given["dtype"], given["shape"][0]) == ("x", "float32", None if free else 2)
    assert sum(engine.facts["precision"].values()) == engine.facts["nodes"]


def test_several_gpus_and_two_profiles_make_it_larger(network: Network, tmp_path: Path) -> None:
    model = network("cnn").model
    small, large = ({"x": _range(low, high)} for low, high in ((1, 8), (8, 64)))
    sizes = {
        name: build(model, tmp_path / name, **params).path.stat().st_size
        for name, params in {
            "one": {"compute_capabilities": (89,), "profiles": [{"inputs": small}]},
            "two profiles": {"compute_capabilities": (89,), "profiles": [{"inputs": one} for one in (small, large)]},
            "three GPUs": {"compute_capabilities": (86, 89, 120), "profiles": [{"inputs": small}]},
        }.items()
    }  # fmt: skip
    assert sizes["two profiles"] > 1.5 * sizes["one"]
    assert sizes["three GPUs"] > sizes["one"]


def test_validity_names_gpus_version_and_profiles(network: Network, tmp_path: Path) -> None:
    runtime, params = runtimes.registry.alone(RTX), RUNTIMES[RTX].params(compute_capabilities=(86, 89))
    engine = build(network("cnn").model, tmp_path / "engine", compute_capabilities=(86, 89))
    validity = runtime.validity(engine, params)

    conditions = {(one["what"], one["rule"]): one for one in validity["conditions"]}
    assert conditions["compute_capability", "any_of"]["wanted"] == ["8.6", "8.9"]
    assert conditions[f"package:{RTX}", "equal"]["wanted"] == runtime.versions()[RTX]
    assert validity["profiles"] == [{"x": [[1, 3, 16, 16], [1, 3, 16, 16], [32, 3, 16, 16]]}]


def test_tells_how_far_it_is(network: Network, tmp_path: Path) -> None:
    said: list[tuple[int, int, str]] = []
    runtime = runtimes.registry.alone(RTX)
    runtime.build_reporting(  # type: ignore[attr-defined]
        network("cnn").model, RUNTIMES[RTX].params(), tmp_path, lambda *how_far: said.append(how_far)
    )
    done = [one for one, _, _ in said]
    assert done == sorted(done)
    assert said[-1][0] == said[-1][1] > 1
    assert len({message for _, _, message in said}) > 2


@pytest.mark.parametrize(("ranges", "param", "text"), BAD_RANGES, ids=["name", "rank", "dimension"])
def test_a_bad_profile_is_refused_before_the_build(
    ranges: dict[str, Any], param: str, text: str, network: Network, tmp_path: Path
) -> None:
    inputs = {name: dict(zip(("min", "opt", "max"), shapes, strict=True)) for name, shapes in ranges.items()}
    with pytest.raises(InvalidParams, match=text) as refusal:
        build(network("cnn").model, tmp_path / "engine", profiles=[{"inputs": inputs}])
    assert refusal.value.param == param
    assert list((tmp_path / "engine").iterdir()) == []


def test_a_profile_that_decreases_is_no_parameter() -> None:
    with pytest.raises(ValueError, match="dimension 0 has min 4, opt 2, max 1"):
        RUNTIMES[RTX].params(profiles=[{"inputs": {"x": {"min": (4,), "opt": (2,), "max": (1,)}}}])


@pytest.mark.parametrize(
    ("precision", "capabilities", "named"),
    [("fp8", (80, 89), "FP8, which sm80"), ("bf16", (75, 86), "BF16, which sm75")],
    ids=["fp8", "bf16"],
)
def test_types_that_a_gpu_lacks_are_told_before_the_build(
    precision: str, capabilities: tuple[int, ...], named: str, network: Network, tmp_path: Path
) -> None:
    model = in_precision(network("cnn"), precision, tmp_path / "model")
    with pytest.raises(InvalidParams, match=named) as refusal:
        build(model, tmp_path / "engine", compute_capabilities=capabilities)
    assert refusal.value.param == "compute_capabilities"


def test_a_build_that_fails_names_node_and_cause(tmp_path: Path) -> None:
    model = _top_k(5000, tmp_path / "model")
    covered = runtimes.registry.alone(RTX).coverage(model)
    assert (covered.unsupported, covered.evidence) == ([], "parsed")
    with pytest.raises(InvalidModel, match="K exceeds the maximum value allowed") as refusal:
        build(model, tmp_path / "engine")
    assert refusal.value.node == "the_best"
    assert "cudaError" not in refusal.value.detail
    assert "/_src/" not in refusal.value.detail


def test_a_node_that_the_parser_lacks_is_told_with_its_reason(tmp_path: Path) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="odd", domain="org.example")
    model = _model([node], tmp_path / "model", opsets=[helper.make_opsetid("org.example", 1)])
    (one,) = runtimes.registry.alone(RTX).coverage(model).unsupported
    assert (one.node, one.operator) == ("odd", "Frobnicate")
    with pytest.raises(UnsupportedOperator, match="Frobnicate") as refusal:
        build(model, tmp_path / "engine")
    assert refusal.value.node == "odd"


def test_a_workspace_that_is_too_small_is_named(network: Network, tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="workspace") as refusal:
        build(network("cnn", "static").model, tmp_path / "engine", workspace_mib=1)
    assert refusal.value.param == "workspace_mib"


def test_double_becomes_float_and_is_told(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    engine = build(_model([node], tmp_path / "model", kind=TensorProto.DOUBLE), tmp_path / "engine")
    assert engine.facts["signature"]["inputs"][0]["dtype"] == "float32"
    assert any("fp64" in text for text in engine.facts["explained"])


def test_the_builder_may_look_for_sparse_weights(network: Network, tmp_path: Path) -> None:
    params = RUNTIMES[RTX].params(compute_capabilities=(89,), sparse_weights=True)
    held = library(RTX)
    config = configure(held, held.trt.Builder(held.trt.Logger()), params, [])
    assert config.get_flag(held.trt.BuilderFlag.SPARSE_WEIGHTS)
    engine = build(network("cnn").model, tmp_path / "engine", compute_capabilities=(89,), sparse_weights=True)
    assert engine.path.stat().st_size > 10_000


@NO_GPU_HERE
@pytest.mark.parametrize("param", ["refit", "strip"])
def test_what_needs_a_gpu_is_refused_without_one(param: str, network: Network, tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="only where there is a GPU") as refusal:
        build(network("cnn").model, tmp_path / "engine", **{param: True})
    assert refusal.value.param == param


@NO_GPU_HERE
def test_without_a_gpu_it_loads_nothing_and_says_so(network: Network, tmp_path: Path) -> None:
    runtime, params = runtimes.registry.alone(RTX), RUNTIMES[RTX].params(weight_streaming=True)
    engine = build(network("cnn").model, tmp_path / "engine", weight_streaming=True)
    with pytest.raises(Unavailable, match="no GPU"):
        runtime.load(engine, params)
    assert "no NVIDIA GPU" in runtime.hindrance(params)  # type: ignore[attr-defined]


def test_the_self_test_passes_in_a_child() -> None:
    assert try_runtime(RTX)["versions"].keys() == {RTX}


def test_without_the_library_it_is_unavailable(tmp_path: Path) -> None:
    script = "import sys; sys.modules['tensorrt'] = None\nfrom workers.tensorrt.library import library\nlibrary('tensorrt')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "Unavailable: tensorrt cannot be imported" in done.stderr


def test_errors_of_models_are_ours(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "x"], ["y"], name="broken", kernel_shape=[9])
    with pytest.raises(BurnishError) as refusal:
        build(_model([node], tmp_path / "model"), tmp_path / "engine")
    assert refusal.value.node == "broken"


def _range(low: int, high: int) -> dict[str, tuple[int, ...]]:
    return {"min": (low, 3, 16, 16), "opt": (low, 3, 16, 16), "max": (high, 3, 16, 16)}


def _model(
    nodes: list[Any],
    folder: Path,
    *,
    kind: int = TensorProto.FLOAT,
    opsets: list[Any] | None = None,
) -> ModelHandle:
    x, y = (helper.make_tensor_value_info(name, kind, [1, 4]) for name in "xy")
    graph = helper.make_graph(nodes, "one", [x], [y])
    opset = [helper.make_opsetid("", 18), *(opsets or [])]
    return save_onnx(helper.make_model(graph, opset_imports=opset, ir_version=10), folder)


def _top_k(count: int, folder: Path) -> ModelHandle:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6000])
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, count]),
        helper.make_tensor_value_info("i", TensorProto.INT64, [1, count]),
    ]
    node = helper.make_node("TopK", ["x", "k"], ["y", "i"], name="the_best")
    k = numpy_helper.from_array(np.array([count], np.int64), "k")
    graph = helper.make_graph([node], "top", [x], outputs, [k])
    opset = [helper.make_opsetid("", 18)]
    return save_onnx(helper.make_model(graph, opset_imports=opset, ir_version=10), folder)
