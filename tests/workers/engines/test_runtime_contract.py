"""What every runtime of the catalog promises, held on trained networks."""

import json
from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pydantic import ValidationError

from app.artifacts.accelerators import TPU, accelerators
from app.catalog.compute_capability import number_of
from app.catalog.recipe import Target, validate_target
from app.catalog.runtime_params.tensorrt import CAPABILITIES
from app.catalog.runtimes import RUNTIMES
from app.errors import InvalidModel, InvalidParams, SignatureMismatch, UnsupportedOperator
from tests.workers.engines.networks import Network
from workers import runtimes
from workers.gpu import gpus
from workers.offered import without_absent
from workers.onnx_files import save_onnx
from workers.onnx_proof import open_session
from workers.runtimes.base import Engine

NAMES = sorted(RUNTIMES)
OF_ONNX = [name for name in NAMES if "onnx" in RUNTIMES[name].formats]
NO_GPU = pytest.mark.skipif(not gpus(), reason="there is no NVIDIA GPU")
NO_ACCELERATOR = pytest.mark.skip(reason="there is no such Intel GPU or NPU")
NO_RTX = pytest.mark.skipif(
    not {number_of(gpu["compute_capability"]) for gpu in gpus()} & set(CAPABILITIES),
    reason="TensorRT for RTX does not serve this GPU",
)
NO_TPU = pytest.mark.skipif(TPU not in accelerators(), reason="there is no TPU")
NO_TENSORRT = pytest.mark.skipif(find_library("nvinfer") is None, reason="TensorRT is not installed")


def served(names: list[str]) -> list[Any]:
    """Runtimes as parameters; skipped where this machine lacks what they need."""
    marks = {name: [NO_GPU] if RUNTIMES[name].device == "cuda" else [] for name in names}
    marks |= {name: [NO_ACCELERATOR] for name in names if name not in without_absent(names)}
    return [
        pytest.param(
            name,
            marks=[
                *marks[name],
                *([NO_TENSORRT] if name.endswith("tensorrt") else []),
                *([NO_RTX] if name == "tensorrt-rtx" else []),
                *([NO_TPU] if RUNTIMES[name].device == TPU else []),
            ],
        )
        for name in names
    ]


SERVED = served(NAMES)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Network], Engine]:
    """`built(runtime, network)`: its engine in fp32, built once, as compiling takes long."""
    known: dict[tuple[str, str], Engine] = {}

    def get(name: str, network: Network) -> Engine:
        spec = RUNTIMES[name]
        model = network.taken(spec.formats)
        if (name, model.digest) not in known:
            out = tmp_path_factory.mktemp(name)
            params = spec.baseline_params(spec.params())
            known[name, model.digest] = runtimes.registry.get(name).build(model, params, out)
        return known[name, model.digest]

    return get


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Engine]:
    """`build(runtime, model, **params)`."""
    count = 0

    def run(name, model, **params):
        nonlocal count
        count += 1
        out = tmp_path / f"engine{count}"
        out.mkdir()
        return runtimes.registry.get(name).build(model, RUNTIMES[name].params(**params), out)

    return run


def test_every_spec_is_implemented_and_nothing_else():
    runtimes.registry.check(set(RUNTIMES))


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("network", ["cnn", "mlp"])
def test_an_engine_gives_the_models_answers(name: str, network: str, built, request, signal):
    subject: Network = request.getfixturevalue(network)
    engine = built(name, subject)
    loaded = runtimes.registry.get(name).load(engine, RUNTIMES[name].params())

    expected = open_session(subject.model).run(None, {"images": subject.images})[0]
    assert signal(expected, loaded.run({"images": subject.images})["logits"]) > 80
    assert loaded.inputs == [{"name": "images", "dtype": "float32", "shape": [None, 1, 8, 8]}]
    assert loaded.outputs == [{"name": "logits", "dtype": "float32", "shape": [None, 10]}]
    assert engine.path.is_file()
    assert engine.size_bytes > 0


@pytest.mark.parametrize("name", SERVED)
def test_an_engine_stands_alone(name: str, cnn: Network, built, tmp_path: Path):
    engine = built(name, cnn)
    moved = tmp_path / "elsewhere"
    engine.root.rename(moved)
    try:
        loaded = runtimes.registry.get(name).load(
            Engine(moved, engine.entry, engine.facts), RUNTIMES[name].params()
        )
        assert loaded.run({"images": cnn.images[:1]})["logits"].shape == (1, 10)
    finally:
        moved.rename(engine.root)


@pytest.mark.parametrize("name", SERVED)
def test_facts_validity_and_versions_are_plain_data(name: str, cnn: Network, built):
    engine = built(name, cnn)
    runtime = runtimes.registry.get(name)

    json.dumps(engine.facts, allow_nan=False)
    assert (
        sum(engine.facts["precision"].values())
        == sum(engine.facts["operators"].values())
        == engine.facts["nodes"]
    )
    assert engine.facts["compute"] == {"fp32": 4}
    validity = runtime.validity(engine, RUNTIMES[name].params())
    json.dumps(validity, allow_nan=False)
    assert {"runtime", "version", "device", "cpu_features", "inputs"} <= set(validity)
    assert set(RUNTIMES[name].packages) == set(runtime.versions())


@pytest.mark.parametrize("name", SERVED)
def test_wrong_inputs_are_named(name: str, cnn: Network, built):
    loaded = runtimes.registry.get(name).load(built(name, cnn), RUNTIMES[name].params())

    for feeds in (
        {"images": cnn.images.astype(np.float64)},
        {"images": cnn.images[:, :, :4]},
        {"images": cnn.images[0]},
        {"pictures": cnn.images},
        {"images": cnn.images, "more": cnn.images},
        {},
    ):
        with pytest.raises(SignatureMismatch):
            loaded.run(feeds)


@pytest.mark.parametrize("name", served(OF_ONNX))
def test_an_unknown_operator_is_named(name: str, build, tmp_path: Path):
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="the_odd_one", domain="org.example")

    with pytest.raises(UnsupportedOperator) as refusal:
        build(name, one_node(node, tmp_path, helper.make_opsetid("org.example", 1)))
    assert "Frobnicate" in refusal.value.detail
    assert refusal.value.stage == "building"
    assert refusal.value.hint


@pytest.mark.parametrize("name", served(OF_ONNX))
def test_a_broken_model_is_refused_with_its_node(name: str, build, tmp_path: Path):
    node = helper.make_node("Conv", ["x", "x"], ["y"], name="the_broken_one", kernel_shape=[9])

    with pytest.raises(InvalidModel) as refusal:
        build(name, one_node(node, tmp_path))
    assert "the_broken_one" in (refusal.value.node or refusal.value.detail)


@pytest.mark.parametrize("name", NAMES)
def test_describes_itself(name: str):
    spec = RUNTIMES[name]

    assert "ource" in spec.documentation
    assert spec.preset.__doc__
    for field, described in spec.params.model_json_schema()["properties"].items():
        assert described.get("description", "").endswith("."), field
    with pytest.raises(ValidationError):
        spec.params.model_validate({"no_such_parameter": 1})
    with pytest.raises(InvalidParams) as refusal:
        validate_target(Target(runtime=name, params={"thread": 2}), "targets[3]")
    assert refusal.value.param == "targets[3].params.thread"


def one_node(node, folder: Path, *opsets):
    """A model of one node from x to y."""
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy"]
    graph = helper.make_graph([node], "one", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), *opsets], ir_version=10)
    assert isinstance(model, onnx.ModelProto)
    return save_onnx(model, folder / "one")
