"""Bias correction in `quantize-static`: mean errors vanish, and what that is worth."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from tests.workers.engines.networks import ArraySamples
from tests.workers.engines.test_passes import model_of
from workers.onnx_files import save_onnx, signature_of
from workers.onnx_layers import Network, scaled_inputs, scaled_outputs
from workers.onnx_prepare import prepare
from workers.onnx_proof import open_session
from workers.passes.equalize import find_pairs

COARSE = {"per_channel": False, "reduce_range": True}  # one scale a tensor, seven bits


@pytest.fixture
def badly_scaled(simplified, tmp_path):
    """The trained convolutional network with channels of very different sizes: the same in fp32."""
    proto = prepare(simplified.load_onnx(), "test", least_opset=13)
    network = Network(proto)
    for number, pair in enumerate(find_pairs(network)):
        factors = 2.0 ** np.random.default_rng(number).uniform(-3, 3, len(network.array(pair.first.weight)))
        network.replace(
            pair.first.weight, scaled_outputs(pair.first, network.array(pair.first.weight), factors)
        )
        network.replace(
            pair.second.weight, scaled_inputs(pair.second, network.array(pair.second.weight), 1 / factors)
        )
        assert pair.first.bias
        network.replace(pair.first.bias, network.array(pair.first.bias) * factors)
    return save_onnx(proto, tmp_path / "bad")


def test_mean_errors_vanish_and_the_signal_gains(badly_scaled, cnn, apply, signal):
    expected = open_session(cnn.model).run(None, {"images": cnn.images})[0]
    found = {}
    for correct in (False, True):
        model, context = apply(
            "quantize-static", badly_scaled, cnn.train, correct_bias=correct, correction_samples=400, **COARSE
        )
        got = open_session(model).run(None, {"images": cnn.images})[0]
        found[correct] = signal(expected, got), float(np.abs((got - expected).mean(axis=0)).mean()), context

    told = found[True][2].facts["bias_correction"]
    assert "bias_correction" not in found[False][2].facts
    assert (told["layers"], told["samples"]) == (4, 400)
    assert told["shift_after"] < told["shift_before"] / 5
    assert found[True][1] < found[False][1] / 2, "on images that were not calibrated with"
    assert found[True][0] > found[False][0] + 1


def test_a_layer_without_bias_gets_one(tmp_path, apply, signal):
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "v": rng.standard_normal((4 * 16, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Flatten", ["r"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "v"], ["y"], name="linear"),
    ]
    model = model_of(nodes, {"x": ["n", 3, 4, 4]}, {"y": ["n", 5]}, weights, tmp_path / "m")
    data = {"x": rng.random((60, 3, 4, 4), dtype=np.float32)}
    quantized, context = apply("quantize-static", model, ArraySamples(data), correct_bias=True, **COARSE)

    assert context.facts["bias_correction"]["layers"] == 2
    assert signature_of(quantized.load_onnx()) == signature_of(model.load_onnx())
    kinds = {t.name: numpy_helper.to_array(t) for t in quantized.load_onnx().graph.initializer}
    assert any(values.dtype == np.int32 and values.any() for values in kinds.values())
    before, after = (open_session(m).run(None, data)[0] for m in (model, quantized))
    assert signal(before, after) > 25


def test_without_layers_that_have_a_bias_nothing_is_corrected(mlp, apply):
    _, context = apply(
        "quantize-static", mlp.model, mlp.train, correct_bias=True, excluded_operators=["Gemm"]
    )

    assert context.facts["bias_correction"]["layers"] == 0
