"""SmoothQuant: where scales go, that the function stays, and what 8 bits gain."""

import warnings

import numpy as np
import pytest
import torch
from onnx import helper

from app.errors import InvalidDataset, InvalidParams
from tests.workers.engines.networks import ArraySamples, Network, trained
from tests.workers.engines.test_passes import model_of, operators
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx
from workers.onnx_layers import Network as Graph
from workers.onnx_layers import scaled_inputs
from workers.onnx_prepare import prepare
from workers.onnx_proof import open_session
from workers.passes.smooth import find_places

WIDTH = 32


class Block(torch.nn.Module):
    """A feed-forward block as transformers have it, over an image's rows: pre-norm, or post-norm as in BERT."""

    def __init__(self, post: bool) -> None:
        super().__init__()
        self.post = post
        self.embed, self.norm = torch.nn.Linear(8, WIDTH), torch.nn.LayerNorm(WIDTH)
        self.up, self.down = torch.nn.Linear(WIDTH, 2 * WIDTH), torch.nn.Linear(2 * WIDTH, WIDTH)
        self.head = torch.nn.Linear(8 * WIDTH, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(images.reshape(-1, 8, 8))
        normed = self.norm(hidden)
        hidden = (normed if self.post else hidden) + self.down(torch.relu(self.up(normed)))
        return self.head(hidden.flatten(1))


@pytest.fixture(scope="module", params=["pre-norm", "post-norm"])
def network(request, tmp_path_factory) -> tuple[Network, bool]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        return trained(
            Block(request.param == "post-norm"), tmp_path_factory.mktemp("block")
        ), request.param == "post-norm"


def logits(model: ModelHandle, images: np.ndarray) -> np.ndarray:
    return open_session(model).run(None, {"images": images})[0]


def with_outliers(model: ModelHandle, folder) -> ModelHandle:
    """Two channels of the norm are 40 times as large, and the weights that read them as much smaller: the same in fp32."""
    proto = prepare(model.load_onnx(), "test", least_opset=13)
    graph = Graph(proto)
    (place,) = find_places(graph)
    factors = np.ones(WIDTH)
    factors[[3, 17]] = 40
    for name in place.norm.input[1:]:
        graph.replace(name, graph.array(name) * factors)
    for layer in place.layers:
        graph.replace(layer.weight, scaled_inputs(layer, graph.array(layer.weight), 1 / factors))
    return save_onnx(proto, folder)


def test_a_norm_that_is_read_elsewhere_keeps_its_parameters(network, apply, signal):
    trained_, post = network
    smoothed, context = apply("smooth", trained_.model, trained_.train)

    (told,) = context.facts["smoothed"]
    assert told["inserted"] is post
    assert operators(smoothed).count("Mul") == operators(trained_.model).count("Mul") + post
    assert signal(logits(trained_.model, trained_.images), logits(smoothed, trained_.images)) > 100
    if post:
        _, context = apply("smooth", trained_.model, trained_.train, insert=False)
        assert context.facts["smoothed"] == []
        assert "nothing was smoothed" in context.warnings[0]


@pytest.mark.parametrize("network", ["pre-norm"], indirect=True)
@pytest.mark.parametrize("quantize", ["quantize-static", "quantize-dynamic"])
def test_outliers_cost_8_bits_less(network, apply, signal, tmp_path, quantize):
    """Pre-norm alone: where a residual reads the norm, scaling its channels would change the function."""
    trained_, _ = network
    bad = with_outliers(trained_.model, tmp_path / "bad")
    expected = logits(trained_.model, trained_.images)
    assert signal(expected, logits(bad, trained_.images)) > 80
    data = trained_.train if quantize == "quantize-static" else None

    def quantized(model: ModelHandle) -> float:
        return signal(expected, logits(apply(quantize, model, data)[0], trained_.images))

    smoothed, context = apply("smooth", bad, trained_.train)
    (told,) = context.facts["smoothed"]
    assert told["spread_after"] < told["spread_before"] / 3
    poor, good = quantized(bad), quantized(smoothed)
    assert good > poor + 6
    assert good > quantized(trained_.model) - 3


def test_alpha_moves_the_spread(network, apply):
    trained_, _ = network
    spreads = [
        apply("smooth", trained_.model, trained_.train, alpha=alpha)[1].facts["smoothed"][0]["spread_after"]
        for alpha in (0.5, 1.0)
    ]
    assert spreads[1] == pytest.approx(1), "activations alone are evened out"
    assert spreads[0] > 1


def test_samples_are_limited_and_order_does_not_matter(network, apply):
    trained_, _ = network
    few = ArraySamples({"images": trained_.images[:8]})
    turned = ArraySamples({"images": np.concatenate([trained_.images[:8][::-1], trained_.images[8:16]])})
    first, context = apply("smooth", trained_.model, few)
    second, _ = apply("smooth", trained_.model, turned, samples=8)

    assert first.digest == second.digest
    assert context.facts["samples"] == 8


def test_what_cannot_be_done_is_said(network, apply):
    trained_, _ = network
    bad = trained_.images[:3].copy()
    bad[1] = np.nan
    with pytest.raises(InvalidDataset, match="sample 1"):
        apply("smooth", trained_.model, ArraySamples({"images": bad}))
    with pytest.raises(InvalidParams) as refusal:
        apply("smooth", trained_.model, trained_.train, excluded_nodes=["no such"])
    assert refusal.value.param == "excluded_nodes"


def test_two_norms_that_share_parameters_stay_apart(tmp_path, apply, signal):
    rng = np.random.default_rng(0)
    weights = {
        "scale": rng.random(8, dtype=np.float32) + 0.5, "shift": rng.random(8, dtype=np.float32),
        "a": rng.standard_normal((8, 4)).astype(np.float32), "b": 9 * rng.standard_normal((8, 4)).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "shift"], ["n1"], name="norm1"),
        helper.make_node("LayerNormalization", ["z", "scale", "shift"], ["n2"], name="norm2"),
        helper.make_node("MatMul", ["n1", "a"], ["p1"], name="product1"),
        helper.make_node("MatMul", ["n2", "b"], ["p2"], name="product2"),
        helper.make_node("Add", ["p1", "p2"], ["y"], name="sum"),
    ]
    model = model_of(nodes, {"x": ["n", 8], "z": ["n", 8]}, {"y": ["n", 4]}, weights, tmp_path / "m")
    data = {name: rng.standard_normal((20, 8)).astype(np.float32) for name in "xz"}
    smoothed, context = apply("smooth", model, ArraySamples(data))

    assert len(context.facts["smoothed"]) == 2
    before, after = (open_session(m).run(None, data)[0] for m in (model, smoothed))
    assert signal(before, after) > 100
