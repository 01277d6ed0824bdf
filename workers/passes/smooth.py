"""The pass `smooth`: what spreads in activations is moved into the weights that read them."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from app.catalog.pass_params.accuracy import SmoothParams
from app.catalog.passes import PASSES
from app.errors import InvalidDataset
from workers.calibration import probed
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx, signature_of
from workers.onnx_layers import Layer, Network, by_input, scaled_inputs
from workers.onnx_nodes import check_names
from workers.onnx_prepare import drop_unread_weights, prepare, set_nodes
from workers.onnx_proof import prove, restore_shapes
from workers.onnx_trial import prove_same
from workers.passes import implements

SPEC = PASSES["smooth"]
SMALLEST = 1e-5  # of a channel's magnitude: one that is never used says nothing of its scale


@dataclass(frozen=True)
class Place:
    """A layer norm, the products that read it, and whether nothing else does."""

    norm: NodeProto
    layers: tuple[Layer, ...]
    alone: bool

    @property
    def value(self) -> str:
        """The norm's output."""
        return str(self.norm.output[0])


@implements(SPEC.name)
def apply(model: ModelHandle, params: SmoothParams, ctx: PassContext) -> ModelHandle:
    """Take each channel's largest magnitude on the data, and scale.

    Facts: `smoothed` ([{norm, products, inserted, spread_before, spread_after}]; the spread is the largest channel's
    magnitude over the median one's), `samples`.

    Raises:
        InvalidParams: an excluded node is not in the model.
        InvalidDataset: the data has no samples, or gives NaN or infinity.
        InvalidModel: the result computes something else.
    """
    original = model.load_onnx()
    check_names(original, params.excluded_nodes, "excluded_nodes")
    proto = prepare(model.load_onnx(), SPEC.name, least_opset=13)
    network = Network(proto)
    places = [
        place
        for place in find_places(network)
        if (place.alone or params.insert)
        and not {layer.node.name for layer in place.layers} & set(params.excluded_nodes)
    ]
    magnitudes = largest_magnitudes(proto, [place.value for place in places], params.samples, ctx)
    ctx.facts.update(smoothed=[], samples=min(ctx.samples["calibration"].count, params.samples or 2**62))
    scales = {
        place.norm.name: _smooth(network, place, magnitudes[place.value], params.alpha, ctx)
        for place in places
    }
    _insert(network, {norm: node for norm, node in scales.items() if node is not None})
    if not places:
        ctx.warn("nothing was smoothed: no layer norm feeds a matrix product with constant weights")
    drop_unread_weights(proto.graph)
    restore_shapes(proto, original.graph)
    handle = save_onnx(proto, ctx.out)
    prove(signature_of(original), handle, SPEC.name)
    prove_same(model, handle, ctx, SPEC.name)
    return handle


def find_places(network: Network) -> list[Place]:
    """Every layer norm over the last axis that feeds a product with constant weights, in the graph's order."""
    found = []
    results = {value.name for value in network.graph.output}
    for norm in network.graph.node:
        if norm.op_type != "LayerNormalization" or not set(norm.input[1:]) <= network.constants.keys():
            continue
        if any(attribute.name == "axis" and attribute.i != -1 for attribute in norm.attribute):
            rank = len(network.shapes.get(norm.output[0], []))
            if next(a.i for a in norm.attribute if a.name == "axis") != rank - 1:
                continue
        readers = network.readers.get(norm.output[0], [])
        layers = [network.layer_of(node) for node in readers if node.input[0] == norm.output[0]]
        products = tuple(layer for layer in layers if layer is not None and layer.node.op_type != "Conv")
        if products:
            alone = len(products) == len(readers) and norm.output[0] not in results
            found.append(Place(norm, products, alone))
    return found


def largest_magnitudes(
    model: onnx.ModelProto, names: list[str], limit: int | None, ctx: PassContext
) -> dict[str, np.ndarray]:
    """The largest magnitude of each channel (last axis) of values, over the calibration data.

    Raises:
        InvalidDataset: there are no samples, or a value is NaN or infinite.
    """
    samples = ctx.samples["calibration"]
    total = min(samples.count, limit or samples.count)
    found: dict[str, np.ndarray] = {}
    for index, values in enumerate(probed(model, [], names, samples, limit) if names else ()):
        ctx.report(index, total, "taking magnitudes")
        for name in names:
            rows = np.abs(values[name]).reshape(-1, values[name].shape[-1])
            if not np.isfinite(rows).all():
                raise InvalidDataset(
                    f"the tensor {name!r} holds NaN or infinity on calibration sample {index}",
                    hint="remove the sample, or look for a fault in its preprocessing",
                )
            largest = rows.max(axis=0)
            found[name] = np.maximum(found.get(name, largest), largest)
    if names and not found:
        raise InvalidDataset("the calibration dataset has no samples")
    return found


def _smooth(
    network: Network, place: Place, largest: np.ndarray, alpha: float, ctx: PassContext
) -> NodeProto | None:
    """Scale weights, and the norm; or give the multiplication that must come after it."""
    weights = [by_input(layer, network.array(layer.weight)) for layer in place.layers]
    heaviest = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    used = np.maximum(largest.astype(np.float64), SMALLEST)
    factors = used**alpha / np.maximum(heaviest.astype(np.float64), SMALLEST) ** (1 - alpha)
    for layer in place.layers:
        network.replace(
            layer.weight, scaled_inputs(layer, network.array(layer.weight).astype(np.float64), factors)
        )
    ctx.facts["smoothed"].append(
        {
            "norm": place.norm.name,
            "products": [layer.node.name for layer in place.layers],
            "inserted": not place.alone,
            "spread_before": float(used.max() / np.median(used)),
            "spread_after": float((used / factors).max() / np.median(used / factors)),
        }
    )
    if place.alone:
        _scale_norm(network, place.norm, 1 / factors)
        return None
    return _multiplication(network, place, 1 / factors)


def _scale_norm(network: Network, norm: NodeProto, factors: np.ndarray) -> None:
    """Give a norm parameters of its own that are scaled; another norm may share those that it had."""
    for index in range(1, len(norm.input)):
        if norm.input[index]:
            scaled = network.array(norm.input[index]).astype(np.float64) * factors
            norm.input[index] = _constant(network, f"{norm.output[0]}__smooth{index}", scaled)


def _multiplication(network: Network, place: Place, factors: np.ndarray) -> NodeProto:
    scaled = f"{place.value}__smooth"
    for layer in place.layers:
        layer.node.input[0] = scaled
    by = _constant(network, f"{scaled}_by", factors)
    return helper.make_node("Mul", [place.value, by], [scaled], name=f"{place.norm.name}__smooth")


def _insert(network: Network, after: dict[str, NodeProto]) -> None:
    """Put nodes behind those of the given names."""
    nodes = []
    for node in network.graph.node:
        nodes += [node, after[node.name]] if node.name in after else [node]
    set_nodes(network.graph, nodes)


def _constant(network: Network, name: str, values: np.ndarray) -> str:
    network.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return name
