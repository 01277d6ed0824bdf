"""The pass `equalize`: neighbouring layers share their ranges, channel by channel."""

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from app.catalog.pass_params.accuracy import EqualizeParams
from app.catalog.passes import PASSES
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx, signature_of
from workers.onnx_layers import Layer, Network, by_input, by_output, scaled_inputs, scaled_outputs
from workers.onnx_nodes import check_names
from workers.onnx_prepare import prepare
from workers.onnx_proof import prove, restore_shapes
from workers.onnx_trial import prove_same
from workers.passes import implements

SPEC = PASSES["equalize"]
HOMOGENEOUS = ("Relu", "LeakyRelu", "Identity")  # f(s x) = s f(x) for every s > 0, element by element
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")
CONVERGED = 1e-3  # the most that a factor still changes


@dataclass(frozen=True)
class Pair:
    """Two layers between which only what scales with its input lies; `repeats` inputs of the second an output of the first."""

    first: Layer
    second: Layer
    repeats: int


@implements(SPEC.name)
def apply(model: ModelHandle, params: EqualizeParams, ctx: PassContext) -> ModelHandle:
    """Scale, pair by pair, until nothing changes.

    Facts: `pairs` ([{first, second, channels, precision_before, precision_after}]; the precision is the mean share of
    their tensors' range that channels use), `rounds`.

    Raises:
        InvalidParams: an excluded node is not in the model.
        InvalidModel: the result computes something else.
    """
    original = model.load_onnx()
    check_names(original, params.excluded_nodes, "excluded_nodes")
    proto = prepare(model.load_onnx(), SPEC.name, least_opset=11)
    network = Network(proto)
    pairs = [pair for pair in find_pairs(network) if pair.first.node.name not in params.excluded_nodes]
    equalizer = Equalizer(network, pairs)
    before = [equalizer.precision(pair) for pair in pairs]
    ctx.facts["rounds"] = equalizer.run(params.rounds)
    ctx.facts["pairs"] = [
        {
            "first": pair.first.node.name,
            "second": pair.second.node.name,
            "channels": len(equalizer.ranges(pair)[0]),
            "precision_before": was,
            "precision_after": equalizer.precision(pair),
        }
        for pair, was in zip(pairs, before, strict=True)
    ]
    equalizer.write()
    if not pairs:
        ctx.warn(
            "nothing was equalized: no two layers have only ReLU or pooling between them, and no other reader; "
            "run `simplify` before, which merges batch norms into convolutions"
        )
    restore_shapes(proto, original.graph)
    handle = save_onnx(proto, ctx.out)
    prove(signature_of(original), handle, SPEC.name)
    prove_same(model, handle, ctx, SPEC.name)
    return handle


def find_pairs(network: Network) -> list[Pair]:
    """Every pair, in the graph's order."""
    found = []
    for layer in network.layers:
        second = _next_layer(network, layer)
        if second is None:
            continue
        outputs = len(by_output(layer, network.array(layer.weight)))
        inputs = len(by_input(second, network.array(second.weight)))
        flattened = layer.node.op_type == "Conv" and second.node.op_type != "Conv"
        if inputs == outputs or (flattened and inputs % outputs == 0):
            found.append(Pair(layer, second, inputs // outputs))
    return found


def _next_layer(network: Network, layer: Layer) -> Layer | None:
    name, images = layer.output, layer.node.op_type == "Conv"
    while (node := network.only_reader(name)) is not None:
        second = network.layer_of(node)
        if second is not None:
            flat = not images or len(network.shapes.get(name, [])) == 2
            fits = node.op_type == "Conv" if not flat else node.op_type != "Conv"
            return second if fits and node.input[0] == name else None
        if not (node.op_type in HOMOGENEOUS or (images and _keeps_channels(network, node, name))):
            return None
        name = node.output[0]
    return None


def _keeps_channels(network: Network, node: NodeProto, name: str) -> bool:
    """Whether a node of an image [samples, channels, …] pools within channels, or makes its axes after the first one."""
    if node.op_type in ("ReduceMean", "ReduceMax"):
        rank = len(network.shapes.get(name, []))
        given = [list(a.ints) for a in node.attribute if a.name == "axes"]
        if len(node.input) > 1 and node.input[1] in network.constants:
            given = [network.array(node.input[1]).tolist()]
        return bool(given and rank > 2) and {axis % rank for axis in given[0]} == set(range(2, rank))
    if node.op_type == "Flatten":
        return all(a.i == 1 for a in node.attribute if a.name == "axis")
    if node.op_type == "Reshape":
        before, after = network.shapes.get(name, []), network.shapes.get(node.output[0], [])
        sizes = before[1:]
        return len(after) == 2 and None not in sizes and after[1] == int(np.prod(sizes))  # type: ignore[arg-type]
    return node.op_type in POOLS


class Equalizer:
    """Factors of layers' outputs and inputs, found without changing the weights, which are scaled once in the end."""

    def __init__(self, network: Network, pairs: list[Pair]):
        self._network = network
        self._pairs = pairs
        self._layers = {layer.node.name: layer for pair in pairs for layer in (pair.first, pair.second)}
        self._outputs: dict[str, np.ndarray] = {}
        self._inputs: dict[str, np.ndarray] = {}
        for name, layer in self._layers.items():
            weight = network.array(layer.weight)
            self._outputs[name] = np.ones(len(by_output(layer, weight)))
            self._inputs[name] = np.ones(len(by_input(layer, weight)))

    def run(self, most: int) -> int:
        """Rounds over all pairs until nothing changes, at most so many; how many it took.

        Source: Nagel et al., 2019, section 4.1, equation 11.
        """
        for number in range(most):
            largest = 0.0
            for pair in self._pairs:
                one, two = self.ranges(pair)
                with np.errstate(divide="ignore", invalid="ignore"):
                    factors = np.sqrt(one / two)
                factors = np.where(np.isfinite(factors) & (factors > 0), factors, 1.0)
                largest = max(largest, float(np.max(np.abs(factors - 1), initial=0)))
                self._outputs[pair.first.node.name] /= factors
                self._inputs[pair.second.node.name] *= np.repeat(factors, pair.repeats)
            if largest < CONVERGED:
                return number + 1
        return most

    def ranges(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """The largest magnitude of each channel's weights in the first layer, and in the second."""
        first, second = pair.first.node.name, pair.second.node.name
        weight = self._network.array(pair.first.weight)
        inner = scaled_inputs(pair.first, weight, self._inputs[first].astype(np.float32))
        one = _largest(by_output(pair.first, inner)) * self._outputs[first]
        weight = self._network.array(pair.second.weight)
        inner = scaled_outputs(pair.second, weight, self._outputs[second].astype(np.float32))
        two = _largest(by_input(pair.second, inner)) * self._inputs[second]
        return one, two.reshape(len(one), -1).max(axis=1)

    def precision(self, pair: Pair) -> float:
        """The mean over channels of the share of both tensors' ranges that they use."""
        shares = [ranges / max(float(ranges.max()), 1e-30) for ranges in self.ranges(pair)]
        return float(np.mean(shares[0] * shares[1]))

    def write(self) -> None:
        """Scale weights and biases."""
        for name, layer in self._layers.items():
            weight = self._network.array(layer.weight).astype(np.float64)
            weight = scaled_outputs(
                layer, scaled_inputs(layer, weight, self._inputs[name]), self._outputs[name]
            )
            self._network.replace(layer.weight, weight)
            if layer.bias is not None:
                bias = self._network.array(layer.bias).astype(np.float64)
                self._network.replace(layer.bias, bias * self._outputs[name])


def _largest(rows: np.ndarray) -> np.ndarray:
    """The largest magnitude of each row, in fp64."""
    largest: np.ndarray = np.maximum(rows.max(axis=1), -rows.min(axis=1)).astype(np.float64)
    return largest
