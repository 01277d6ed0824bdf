"""OpenVINO on CPUs beyond the contract: its parameters, its facts, what it refuses, and what its bundle's `run.py` does."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.catalog.runtime_params.openvino import OpenVinoCpuParams
from app.errors import InvalidModel, InvalidParams, UnsupportedOperator
from tests.workers.engines.networks import answers
from workers.bundle.build import lay_out
from workers.bundle.samples import write_samples
from workers.measure.processors import usable_processors
from workers.onnx_files import save_onnx, tree_digest
from workers.openvino_library import openvino
from workers.runtimes import registry
from workers.runtimes.base import Engine
from workers.runtimes.why import why

RUNTIME = registry.alone("openvino-cpu")
CAPABILITIES = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
FLOAT, INT64, STRING, BFLOAT16, BOOL = (
    getattr(TensorProto, name) for name in ("FLOAT", "INT64", "STRING", "BFLOAT16", "BOOL")
)


@pytest.fixture
def built(tmp_path: Path):
    """`built(model, **params)`: an engine."""
    count = 0

    def build(model, **params):
        nonlocal count
        count += 1
        out = tmp_path / f"engine{count}"
        out.mkdir()
        return RUNTIME.build(model, OpenVinoCpuParams(**params), out)

    return build


@pytest.fixture
def graph(tmp_path: Path):
    """`graph(nodes, inputs, outputs, weights)`: an ONNX model; inputs and outputs are {name: (element type, shape)}."""

    def make(nodes, inputs, outputs, weights=()):
        given, left = (
            [helper.make_tensor_value_info(name, *value) for name, value in side.items()]
            for side in (inputs, outputs)
        )
        made = helper.make_graph(nodes, "g", given, left, list(weights))
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        return save_onnx(model, tmp_path / f"model{len(list(tmp_path.iterdir()))}")

    return make


def test_precision_is_what_is_asked_for_and_never_another(cnn, built):
    assert built(cnn.model).facts["inference_precision"] == "fp32"
    for asked, name in (("bf16", "bf16"), ("f16", "fp16")):
        if name.upper() in CAPABILITIES:
            facts = built(cnn.model, inference_precision=asked).facts
            assert facts["inference_precision"] == name
            assert facts["compute"] == {name: 4}
            assert any(name in text for text in facts["explained"])
            continue
        with pytest.raises(InvalidParams) as refusal:
            built(cnn.model, inference_precision=asked)
        assert refusal.value.param == "inference_precision"
        assert asked in refusal.value.detail
        assert refusal.value.hint


def test_parameters_reach_the_compiled_network(cnn, built):
    engine = built(cnn.model)
    params = OpenVinoCpuParams(
        threads=2,
        hint="throughput",
        streams=2,
        execution_mode="accuracy",
        inference_precision="f32",
        sparse_weights_rate=0.5,
    )
    core = openvino.Core()
    compiled = core.compile_model(str(engine.path), "CPU", RUNTIME.properties(params))
    wanted = {
        "INFERENCE_NUM_THREADS": 2,
        "NUM_STREAMS": 2,
        "PERFORMANCE_HINT": "THROUGHPUT",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
        "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": 0.5,
    }

    for name, value in wanted.items():
        found = compiled.get_property(name)
        assert getattr(found, "to_string", lambda found=found: found)() == value or value in str(found), name


def test_zero_threads_are_those_that_the_process_may_use(cnn, built):
    assert RUNTIME.properties(OpenVinoCpuParams())["INFERENCE_NUM_THREADS"] == usable_processors()
    assert RUNTIME.validity(built(cnn.model), OpenVinoCpuParams())["threads"] == usable_processors()


def test_nncf_s_form_is_int8_throughout(cnn, mlp, apply, built):
    for network in (cnn, mlp):
        quantized, context = apply("quantize-openvino", network.model, network.train)
        baseline, engine = built(network.model), built(quantized)

        count = sum(context.facts["quantized"].values())
        assert engine.facts["compute"] == {"int8": count}
        assert engine.facts["int8_share"] == 1.0
        assert engine.facts["unfused"]["count"] == 0
        sentences = why(baseline.facts, engine.facts, {"speedup": {"verdict": "faster"}})
        assert any("int8" in text for text in sentences)
        assert not any("ConvInteger" in text or "graph_optimization" in text for text in sentences)


def test_onnx_qdq_is_int8_too(cnn, simplified, apply, built):
    quantized, _ = apply("quantize-static", simplified, cnn.train)

    assert built(quantized).facts["compute"] == {"int8": 4}


def test_dynamic_quantization_has_no_kernel_and_the_facts_say_so(mlp, apply, built):
    quantized, _ = apply("quantize-dynamic", mlp.model)
    engine = built(quantized)

    assert engine.facts["compute"] == {"fp32": 3}
    assert engine.facts["unfused"]["count"] == 3
    sentences = why(built(mlp.model).facts, engine.facts, {"speedup": {"verdict": "slower"}})
    assert any("no 8-bit kernel" in text and "quantize-openvino" in text for text in sentences)


def test_packed_weights_are_counted(mlp, apply, built):
    for bits in (4, 8):
        quantized, _ = apply("quantize-weights", mlp.model, minimum_weights=0, bits=bits)
        facts = built(quantized).facts

        assert facts["compute"][f"weights-{bits}bit"] >= 2
        assert any("unpack" in text for text in facts["explained"])


def test_half_precision_weights_stay_half(cnn, apply, built):
    half, _ = apply("to-fp16", cnn.model)
    engine = built(half)

    assert engine.facts["model_half_weights"] > engine.facts["weights"] / 2
    assert engine.size_bytes < built(cnn.model).size_bytes
    assert any("half precision" in text for text in engine.facts["explained"])


def test_full_weights_stay_full(cnn, built):
    facts = built(cnn.model).facts

    assert facts["half_weights"] == facts["model_half_weights"] == 0
    assert (built(cnn.model).root / "model.bin").stat().st_size >= 4 * facts["weights"] - 64


def test_an_engine_has_the_same_bytes_again(cnn, apply, built):
    assert tree_digest(built(cnn.model).root) == tree_digest(built(cnn.model).root)
    quantized, _ = apply("quantize-openvino", cnn.model, cnn.train)
    assert tree_digest(built(quantized).root) == quantized.digest


def test_the_blob_is_used_where_it_fits_and_nowhere_else(cnn, built):
    params = OpenVinoCpuParams(cache_compiled=True, threads=1)
    engine = built(cnn.model, cache_compiled=True, threads=1)
    feeds = {"images": cnn.images}
    expected = RUNTIME.load(built(cnn.model, threads=1), OpenVinoCpuParams(threads=1)).run(feeds)["logits"]
    np.testing.assert_array_equal(RUNTIME.load(engine, params).run(feeds)["logits"], expected)

    (engine.root / "compiled.blob").write_bytes(b"no network")
    with pytest.raises(InvalidModel):
        RUNTIME.load(engine, params)
    key = json.loads((engine.root / "compiled.json").read_text())
    assert set(key) == {"openvino", "architecture", "device", "cpu_features", "properties"}
    for what in key:
        (engine.root / "compiled.json").write_text(json.dumps({**key, what: "another"}))
        np.testing.assert_allclose(RUNTIME.load(engine, params).run(feeds)["logits"], expected, atol=1e-5)
    (engine.root / "compiled.json").write_text(json.dumps(key))
    elsewhere = params.model_copy(update={"threads": 2})
    np.testing.assert_allclose(RUNTIME.load(engine, elsewhere).run(feeds)["logits"], expected, atol=1e-5)


def test_outputs_outlive_the_next_run(cnn, built):
    loaded = RUNTIME.load(built(cnn.model), OpenVinoCpuParams())
    first = loaded.run({"images": cnn.images[:1]})["logits"]
    before = first.copy()
    loaded.run({"images": cnn.images[1:2]})

    np.testing.assert_array_equal(first, before)


def test_names_order_and_types_are_those_of_the_onnx(graph, built):
    model = graph(
        [
            helper.make_node("Relu", ["x"], ["r"]),
            helper.make_node("Identity", ["r"], ["z"]),
            helper.make_node("Identity", ["r"], ["a"]),
            helper.make_node("Add", ["k", "k"], ["twice"]),
            helper.make_node("Not", ["flag"], ["other"]),
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        ],
        {"x": (FLOAT, ["n", 4]), "k": (INT64, []), "flag": (BOOL, [2]), "unread": (FLOAT, [3])},
        {
            "z": (FLOAT, ["n", 4]),
            "r": (FLOAT, ["n", 4]),
            "a": (FLOAT, ["n", 4]),
            "twice": (INT64, []),
            "other": (BOOL, [2]),
            "sum": (FLOAT, []),
        },
    )
    feeds = {
        "x": np.array([[-1, 2, 3, 4]], np.float32), "k": np.array(3), "flag": np.array([True, False]),
        "unread": np.zeros(3, np.float32),
    }  # fmt: skip
    loaded = RUNTIME.load(built(model), OpenVinoCpuParams())

    assert [entry["name"] for entry in loaded.inputs] == ["x", "k", "flag", "unread"]
    assert loaded.inputs[0] == {"name": "x", "dtype": "float32", "shape": [None, 4]}
    assert loaded.inputs[1] == {"name": "k", "dtype": "int64", "shape": []}
    got = loaded.run(feeds)
    assert list(got) == ["z", "r", "a", "twice", "other", "sum"]
    for name, expected in answers(model, feeds).items():
        np.testing.assert_array_equal(got[name], expected)
        assert got[name].dtype == np.asarray(expected).dtype


@pytest.mark.parametrize("kind", [STRING, BFLOAT16], ids=["string", "bfloat16"])
def test_types_that_numpy_lacks_are_refused(kind, graph, built):
    model = graph([helper.make_node("Identity", ["x"], ["y"])], {"x": (kind, [2])}, {"y": (kind, [2])})

    with pytest.raises(UnsupportedOperator) as refusal:
        built(model)
    assert refusal.value.node == "x"
    assert refusal.value.hint


def test_an_input_that_is_an_output_is_refused(graph, built):
    model = graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        {"x": (FLOAT, [2])},
        {"y": (FLOAT, [2]), "x": (FLOAT, [2])},
    )

    with pytest.raises(InvalidModel) as refusal:
        built(model)
    assert refusal.value.hint


def test_nodes_inside_control_flow_are_counted(graph, built):
    branches = {}
    for name, kind in (("then_branch", "MatMul"), ("else_branch", "Add")):
        out = helper.make_tensor_value_info(f"{name}_y", FLOAT, None)
        node = helper.make_node(kind, ["x", "w"], [out.name], name=f"{name}_node")
        branches[name] = helper.make_graph([node], name, [], [out])
    model = graph(
        [helper.make_node("If", ["c"], ["y"], name="if", **branches)],
        {"x": (FLOAT, [4, 4]), "c": (BOOL, [])},
        {"y": (FLOAT, [4, 4])},
        [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
    )
    engine = built(model)

    assert engine.facts["compute"] == {"fp32": 1}
    assert engine.facts["operators"]["Add"] == 1
    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    loaded = RUNTIME.load(engine, OpenVinoCpuParams())
    for condition, expected in ((True, x), (False, x + np.eye(4, dtype=np.float32))):
        np.testing.assert_array_equal(loaded.run({"x": x, "c": np.array(condition)})["y"], expected)


def test_coverage_names_every_node_without_a_rule(graph, cnn, apply):
    nodes = [
        helper.make_node("StringNormalizer", ["x"], ["y"], name="lower"),
        helper.make_node("StringNormalizer", ["y"], ["z"], name="upper"),
    ]
    found = RUNTIME.coverage(graph(nodes, {"x": (STRING, [2])}, {"z": (STRING, [2])}))
    assert found.operators == 2
    assert found.share == 0.0
    assert [(one.node, one.operator) for one in found.unsupported] == [
        ("lower", "StringNormalizer"),
        ("upper", "StringNormalizer"),
    ]

    conv = helper.make_node("Conv", ["x", "x"], ["y"], name="the_broken_one", kernel_shape=[9])
    relu = helper.make_node("Relu", ["y"], ["z"])
    found = RUNTIME.coverage(graph([conv, relu], {"x": (FLOAT, [1, 4])}, {"z": (FLOAT, [1, 4])}))
    assert [(one.node, one.operator) for one in found.unsupported] == [("the_broken_one", "Conv")]
    assert found.share == 0.5

    quantized, _ = apply("quantize-openvino", cnn.model, cnn.train)
    for whole in (cnn.model, quantized):
        found = RUNTIME.coverage(whole)
        assert found.share == 1.0
        assert found.operators > 5


def test_the_bundle_runs_alone(cnn, apply, built, tmp_path):
    quantized, _ = apply("quantize-openvino", cnn.model, cnn.train)
    params = OpenVinoCpuParams(threads=1, streams=1)
    bundle, home = tmp_path / "bundle", tmp_path / "home"
    bundle.mkdir()
    home.mkdir()
    engine = built(quantized, threads=1, streams=1)
    entry = lay_out(bundle, engine)
    baseline, loaded = (RUNTIME.load(one, params) for one in (built(cnn.model), engine))
    samples = write_samples(bundle, baseline, loaded, {"images": cnn.images[:2]}, {"seed": 0})
    manifest = {
        "target": {"runtime": "openvino-cpu", "params": params.model_dump(mode="json")},
        "engine": {"entry": entry},
        "samples": samples,
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))

    assert run_alone(bundle, home) == (0, True)
    assert list(home.iterdir()) == []  # OpenVINO's report to its makers begins with a file here
    samples["outputs"]["logits"] = {"sha256": "0" * 64, "atol": -1.0}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert run_alone(bundle, home) == (1, False)


def run_alone(bundle: Path, home: Path) -> tuple[int, bool]:
    """The exit status of a bundle's `run.py` where Burnish cannot be imported, and whether the outputs are as promised."""
    done = subprocess.run(
        [sys.executable, "-I", str(bundle / "run.py"), "--json"],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        env={"HOME": str(home)},
    )
    return done.returncode, json.loads(done.stdout)["ok"]


def test_an_engine_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.xml").write_text("<net/>")

    with pytest.raises(InvalidModel) as refusal:
        RUNTIME.load(Engine(tmp_path, "model.xml"), OpenVinoCpuParams())
    assert refusal.value.stage == "loading"
    assert str(tmp_path) not in refusal.value.detail


def test_onnx_models_are_unchanged_by_it(cnn, built):
    before = onnx.load(str(cnn.model.path)).SerializeToString(deterministic=True)
    built(cnn.model)

    assert onnx.load(str(cnn.model.path)).SerializeToString(deterministic=True) == before


def test_a_quantized_mean_with_factors_per_channel_is_right(graph, built, signal):
    """Left as it is, OpenVINO 2026.4 reads other memory for the factors (see `openvino_model.keep_reduced_axes`)."""
    random = np.random.default_rng(0)
    constants = {
        "axes": np.array([1]), "factors": random.random((1, 32), np.float32) + 0.5, "scale": np.float32(0.01),
        "zero": np.uint8(128), "w": np.eye(32, dtype=np.float32),
    }  # fmt: skip
    model = graph(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "factors"], ["scaled"]),
            helper.make_node("QuantizeLinear", ["scaled", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
            helper.make_node("MatMul", ["dq", "w"], ["y"]),
        ],
        {"x": (FLOAT, ["n", "rows", 32])},
        {"y": (FLOAT, ["n", 32])},
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    feeds = {"x": random.standard_normal((64, 6, 32)).astype(np.float32)}

    got = RUNTIME.load(built(model), OpenVinoCpuParams()).run(feeds)["y"]
    assert signal(answers(model, feeds)["y"], got) > 60


def test_arrays_that_may_not_be_written_to_are_read(cnn, built):
    images = cnn.images[:2].copy()
    images.setflags(write=False)
    loaded = RUNTIME.load(built(cnn.model), OpenVinoCpuParams())
    assert loaded.run({"images": images})["logits"].shape == (2, 10)
