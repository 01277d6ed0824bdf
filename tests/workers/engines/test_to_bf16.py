"""What `to-bf16` stores, and what runtimes make of it."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.catalog.runtimes import RUNTIMES
from app.errors import InvalidParams
from tests.workers.engines.test_passes import model_of
from workers.float_types import BF16
from workers.formats.onnx import precision_of
from workers.onnx_proof import open_session
from workers.runtimes import registry

WIDE = 512


@pytest.fixture
def product(tmp_path):
    weights = {
        "w": np.random.default_rng(0).standard_normal((WIDE, WIDE)).astype(np.float32),
        "b": np.linspace(-1, 1, 8, dtype=np.float32).repeat(WIDE // 8)[:1],
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
        helper.make_node("Add", ["m", "b"], ["y"], name="bias"),
    ]
    return model_of(nodes, {"x": ["n", WIDE]}, {"y": ["n", WIDE]}, weights, tmp_path / "m")


def test_the_size_is_halved_and_only_weights_are_rounded(product, apply):
    stored, context = apply("to-bf16", product)

    assert stored.size_bytes < 0.51 * product.size_bytes
    assert precision_of(stored.load_onnx()) == "bf16"
    assert (context.facts["weights"], context.facts["kept"]) == (WIDE * WIDE, 1)
    assert 2**-10 < context.facts["largest_error"] <= 2**-8, "8 significant bits, to nearest"
    before = {t.name: numpy_helper.to_array(t) for t in product.load_onnx().graph.initializer}
    rounded = BF16.narrowed(before["w"]).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((3, WIDE)).astype(np.float32)
    got = open_session(stored).run(None, {"x": x})[0]
    np.testing.assert_allclose(got, x @ rounded + before["b"], rtol=1e-4, atol=1e-3)


def test_a_weight_and_a_branch_can_be_kept(product, apply):
    _, context = apply("to-bf16", product, excluded_weights=["w"])
    assert (context.facts["weights"], context.facts["kept"]) == (0, WIDE * WIDE + 1)
    assert "no weight became bfloat16" in context.warnings[0]

    with pytest.raises(InvalidParams, match="no weight called 'v'") as refusal:
        apply("to-bf16", product, excluded_weights=["v"])
    assert refusal.value.param == "excluded_weights"


def test_weights_inside_branches_are_stored_too(tmp_path, apply):
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    branches = {
        name: helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["z"], name=f"{name}_product")], name, [], [out],
            [numpy_helper.from_array(np.full((64, 64), scale, np.float32), "w")],
        )
        for name, scale in (("then_branch", 0.5), ("else_branch", 0.25))
    }  # fmt: skip
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], name="sum", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["c"], name="greater"),
        helper.make_node("If", ["c"], ["y"], name="if", **branches),
    ]
    model = model_of(nodes, {"x": [2, 64]}, {"y": [2, 64]}, {"zero": np.array(0, np.float32)}, tmp_path / "m")
    stored, context = apply("to-bf16", model)

    assert context.facts["weights"] == 2 * 64 * 64
    assert context.facts["largest_error"] == 0, "powers of two are exact"
    for sign in (1, -1):
        x = sign * np.random.default_rng(0).random((2, 64), dtype=np.float32)
        before, after = (open_session(m).run(None, {"x": x})[0] for m in (model, stored))
        np.testing.assert_array_equal(after, before)


def test_numbers_beyond_half_precision_are_no_trouble():
    values = np.array([np.inf, -np.inf, 0.0, 1e30, -1e-30, 0.5, np.finfo(np.float32).max], np.float32)
    narrow = BF16.narrowed(values).astype(np.float32)

    np.testing.assert_allclose(narrow, values, rtol=2**-8)
    assert np.isfinite(narrow[-1]), "the largest is brought to the largest, not to infinity"
    assert BF16.beyond(values) == (1, 0)


@pytest.mark.parametrize(
    ("runtime", "params", "halved"),
    [
        ("openvino-cpu", {"inference_precision": "f32"}, False),
        ("onnxruntime-cpu", {"graph_optimization": "none"}, True),
        ("onnxruntime-cpu", {"graph_optimization": "all"}, False),
    ],
    ids=["openvino", "onnxruntime-as-written", "onnxruntime-optimized"],
)
def test_engines_are_what_the_documentation_says(product, apply, tmp_path, signal, runtime, params, halved):
    stored, _ = apply("to-bf16", product)
    implementation, given = registry.get(runtime), RUNTIMES[runtime].params(threads=1, **params)
    out = tmp_path / "engine"
    out.mkdir()
    engine = implementation.build(stored, given, out)

    assert (engine.size_bytes < 0.6 * product.size_bytes) is halved
    x = np.random.default_rng(1).standard_normal((3, WIDE)).astype(np.float32)
    expected = open_session(product).run(None, {"x": x})[0]
    assert signal(expected, implementation.load(engine, given).run({"x": x})["y"]) > 45
