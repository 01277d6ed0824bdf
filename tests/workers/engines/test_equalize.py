"""Cross-layer equalization: what it pairs, that the function stays, and what 8 bits gain."""

from itertools import pairwise

import numpy as np
import pytest
from onnx import helper

from tests.workers.engines.networks import ArraySamples
from tests.workers.engines.test_passes import model_of
from workers.onnx_files import save_onnx
from workers.onnx_layers import Network, scaled_inputs, scaled_outputs
from workers.onnx_prepare import prepare
from workers.onnx_proof import open_session
from workers.passes.equalize import find_pairs

CHANNELS = 16


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32) / np.float32(
        np.sqrt(shape[-1])
    )


@pytest.fixture
def chain(tmp_path):
    """Convolution, depthwise convolution, grouped convolution, pooling, flattening, two linear layers."""
    weights = {
        "w1": random(CHANNELS, 3, 3, 3), "b1": random(CHANNELS), "w2": random(CHANNELS, 1, 3, 3),
        "w3": random(8, CHANNELS // 2, 1, 1), "b3": random(8), "w4": random(12, 8 * 4), "b4": random(12), "w5": random(12, 10),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="depthwise", pads=[1] * 4, group=CHANNELS),
        helper.make_node("LeakyRelu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], name="grouped", group=2),
        helper.make_node("MaxPool", ["c3"], ["p"], name="pool", kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["g"], name="linear", transB=1),
        helper.make_node("Relu", ["g"], ["r4"], name="relu4"),
        helper.make_node("MatMul", ["r4", "w5"], ["y"], name="head"),
    ]
    return model_of(nodes, {"x": ["n", 3, 8, 8]}, {"y": ["n", 10]}, weights, tmp_path / "m")


def pairs(model) -> list[tuple[str, str]]:
    network = Network(prepare(model.load_onnx(), "test", least_opset=11))
    return [(pair.first.node.name, pair.second.node.name) for pair in find_pairs(network)]


def test_every_kind_of_layer_is_paired_and_the_function_stays(chain, apply, signal):
    names = ["first", "depthwise", "grouped", "linear", "head"]
    assert pairs(chain) == list(pairwise(names))

    equal, context = apply("equalize", chain)

    x = random(5, 3, 8, 8, seed=1)
    before, after = (open_session(m).run(None, {"x": x})[0] for m in (chain, equal))
    assert signal(before, after) > 110
    told = context.facts["pairs"]
    assert [(pair["first"], pair["second"]) for pair in told] == pairs(chain)
    assert [pair["channels"] for pair in told] == [CHANNELS, CHANNELS, 8, 12]
    gains = [pair["precision_after"] / pair["precision_before"] for pair in told]
    assert np.prod(gains) > 1, "a layer in two pairs may give way in one"


def test_ranges_of_a_pair_meet(tmp_path, apply):
    weights = {"w1": random(4, 6) * np.array([1, 10, 100, 1000], np.float32)[:, None], "w2": random(4, 5)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["a"], name="first", transB=1),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w2"], ["y"], name="second"),
    ]
    equal, _ = apply("equalize", model_of(nodes, {"x": ["n", 6]}, {"y": ["n", 5]}, weights, tmp_path / "m"))
    network = Network(equal.load_onnx())

    np.testing.assert_allclose(
        np.abs(network.array("w1")).max(axis=1), np.abs(network.array("w2")).max(axis=1), rtol=1e-5
    )


@pytest.mark.parametrize(
    "between",
    [
        [helper.make_node("Clip", ["a", "low", "high"], ["r"], name="relu6")],
        [helper.make_node("Sigmoid", ["a"], ["r"], name="sigmoid")],
        [
            helper.make_node("Relu", ["a"], ["r"], name="relu"),
            helper.make_node("Neg", ["a"], ["z"], name="also"),
        ],
    ],
    ids=["clip", "sigmoid", "read-elsewhere"],
)
def test_what_does_not_scale_is_no_pair(tmp_path, apply, between):
    weights = {"w1": random(6, 4), "w2": random(4, 5), "low": np.float32(0), "high": np.float32(6)}
    weights = {name: np.asarray(value) for name, value in weights.items()}
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["a"], name="first"),
        *between,
        helper.make_node("Gemm", ["r", "w2"], ["y"], name="second"),
    ]
    outputs = {"y": ["n", 5], **({"z": ["n", 4]} if len(between) > 1 else {})}
    _, context = apply("equalize", model_of(nodes, {"x": ["n", 6]}, outputs, weights, tmp_path / "m"))

    assert context.facts["pairs"] == []
    assert "nothing was equalized" in context.warnings[0]


def test_a_shared_weight_is_left_alone(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w"], ["y"], name="second"),
    ]
    assert pairs(model_of(nodes, {"x": ["n", 6]}, {"y": ["n", 6]}, {"w": random(6, 6)}, tmp_path / "m")) == []


def test_an_excluded_layer_is_not_scaled(chain, apply):
    _, context = apply("equalize", chain, excluded_nodes=["depthwise"])
    assert "depthwise" not in {pair["first"] for pair in context.facts["pairs"]}


def test_a_badly_scaled_network_survives_one_scale_a_tensor(tmp_path, cnn, simplified, apply, signal):
    """A trained network whose channels were rescaled, which changes nothing in fp32: as batch norms leave it."""
    proto = prepare(simplified.load_onnx(), "test", least_opset=11)
    network = Network(proto)
    (pair,) = [p for p in find_pairs(network) if p.second.node.op_type != "Conv"] or find_pairs(network)[:1]
    count = len(network.array(pair.first.weight))
    factors = 2.0 ** np.random.default_rng(0).uniform(-5, 5, count)
    first, second = pair.first, pair.second
    network.replace(first.weight, scaled_outputs(first, network.array(first.weight), factors))
    network.replace(second.weight, scaled_inputs(second, network.array(second.weight), 1 / factors))
    if first.bias:
        network.replace(first.bias, network.array(first.bias) * factors)
    bad = save_onnx(proto, tmp_path / "bad")
    expected = open_session(cnn.model).run(None, {"images": cnn.images})[0]
    assert signal(expected, open_session(bad).run(None, {"images": cnn.images})[0]) > 80

    def quantized(model) -> float:
        int8, _ = apply(
            "quantize-static", model, ArraySamples({"images": cnn.images[:100]}), per_channel=False
        )
        return signal(expected, open_session(int8).run(None, {"images": cnn.images})[0])

    poor, good, untouched = quantized(bad), quantized(apply("equalize", bad)[0]), quantized(simplified)
    assert good > poor + 6
    assert good > untouched - 3
