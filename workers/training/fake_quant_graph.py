"""A network as ONNX twice over: with its batch norms, as it trains, and with them folded, as it will run; and which values of
it are 8 bits, as the pass `quantize-static` decides on the folded one.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from workers.onnx_prepare import drop_unread_weights, set_nodes, sort_nodes
from workers.training.fake_quant import Grid

GRIDS = {  # by type, and whether the zero point is in the middle
    (TensorProto.UINT8, False): Grid(0, 255, False),
    (TensorProto.UINT8, True): Grid(0, 255, True),
    (TensorProto.INT8, False): Grid(-128, 127, False),
    (TensorProto.INT8, True): Grid(-127, 127, True),
}
_AXES = {"Conv": 0, "ConvTranspose": 1}  # of a weight's output channels
Edge = tuple[str, int]  # a node's name, and which of its inputs


@dataclass(frozen=True)
class Fold:
    """A batch norm behind the node that it is folded into, by their names. `axis`: of the weight's output channels."""

    product: str
    norm: str
    axis: int


@dataclass
class Activation:
    """Values that share a range: the tensors by name, with the edges that read each in 8 bits."""

    grid: Grid
    least: float
    most: float
    edges: dict[str, list[Edge]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)  # of the graph


@dataclass(frozen=True)
class StoredWeight:
    """A constant that is stored in 8 bits, as an edge reads it. `axis`: one range for each channel of it."""

    edge: Edge
    grid: Grid
    axis: int | None


@dataclass
class Layout:
    """What is quantized. Activations by the name of their scale."""

    activations: dict[str, Activation]
    weights: list[StoredWeight]


def own_vectors(graph: onnx.GraphProto) -> None:
    """Give each reader of a floating vector (a bias, a norm's weight) its own: exporters store equal ones once, and they train
    apart."""
    vectors = {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 1
    }
    seen: Counter[str] = Counter()
    added = []
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name not in vectors:
                continue
            seen[name] += 1
            if seen[name] > 1:
                copy = TensorProto.FromString(vectors[name].SerializeToString())
                copy.name = f"{name}__{seen[name]}"
                added.append(copy)
                node.input[place] = copy.name
    graph.initializer.extend(added)


def folds_of(graph: onnx.GraphProto) -> list[Fold]:
    """The batch norms that can be folded: each alone reads what a product with constant weights gives."""
    constants = {tensor.name for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    reads = Counter(name for node in graph.node for name in node.input)
    reads.update(value.name for value in graph.output)
    found = []
    for norm in graph.node:
        if norm.op_type != "BatchNormalization" or len([name for name in norm.output if name]) != 1:
            continue
        product = makers.get(norm.input[0])
        if product is None or reads[norm.input[0]] != 1 or not constants.issuperset(norm.input[1:]):
            continue
        axis = _channels(product)
        if axis is not None and constants.issuperset(name for name in product.input[1:] if name):
            found.append(Fold(product.name, norm.name, axis))
    return found


def _channels(node: NodeProto) -> int | None:
    """The axis of a weight's output channels, for nodes that take a bias for each."""
    given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    if node.op_type == "Gemm":
        plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0
        return (0 if given.get("transB") else 1) if plain else None
    if node.op_type == "ConvTranspose" and given.get("group", 1) != 1:
        return None
    return _AXES.get(node.op_type)


def folded(model: onnx.ModelProto, folds: list[Fold]) -> onnx.ModelProto:
    """The network with these batch norms in the weights before them, under the same names of nodes and values."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    graph = found.graph
    nodes = {node.name: node for node in graph.node}
    arrays = {tensor.name: tensor for tensor in graph.initializer}

    def array(name: str) -> np.ndarray:
        return numpy_helper.to_array(arrays[name]).astype(np.float64)

    added = []
    for fold in folds:
        product, norm = nodes[fold.product], nodes[fold.norm]
        scale, shift, mean, variance = (array(name) for name in norm.input[1:5])
        epsilon = next((entry.f for entry in norm.attribute if entry.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        weight = array(product.input[1])
        around = [-1 if one == fold.axis else 1 for one in range(weight.ndim)]
        bias = array(product.input[2]) if len(product.input) > 2 and product.input[2] else np.zeros(1)
        names = f"{product.name}__folded_weight", f"{product.name}__folded_bias"
        values = weight * factor.reshape(around), (bias - mean) * factor + shift
        added += [
            numpy_helper.from_array(value.astype(np.float32), name)
            for value, name in zip(values, names, strict=True)
        ]
        product.input[1] = names[0]
        if len(product.input) > 2:
            product.input[2] = names[1]
        else:
            product.input.append(names[1])
        product.output[0] = norm.output[0]
    gone = {fold.norm for fold in folds}
    set_nodes(graph, [node for node in graph.node if node.name not in gone])
    graph.initializer.extend(added)
    drop_unread_weights(graph)
    sort_nodes(graph)
    return found


def layout_of(before: onnx.GraphProto, after: onnx.GraphProto, *, symmetric: bool) -> Layout:
    """What was quantized on the way from one graph to the other, whose nodes have the same names. Biases (int32) are left, and
    single numbers, which 8 bits hold as they are. `symmetric`: activations are.
    """
    arrays = {tensor.name: tensor for tensor in after.initializer}
    old = {node.name: node for node in before.node}
    results = {value.name for value in after.output}
    layout = Layout({}, [])
    for node in after.node:
        if node.op_type != "DequantizeLinear":
            continue
        read, scale, zero = (arrays.get(name) for name in node.input)
        assert scale is not None
        assert zero is not None
        edges = list(_edges(after, node.output[0], old))
        if read is not None:
            if read.data_type != TensorProto.INT32 and np.prod(read.dims) > 1:
                middle = symmetric or (
                    read.data_type == TensorProto.INT8 and not numpy_helper.to_array(zero).any()
                )
                axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
                grid = GRIDS[read.data_type, middle]
                layout.weights += [StoredWeight(edge, grid, axis if zero.dims else None) for edge in edges]
            continue
        output = node.output[0] if node.output[0] in results else None
        if not edges and output is None:
            continue
        grid = GRIDS[zero.data_type, symmetric]
        ends = grid.ends(float(numpy_helper.to_array(scale)), int(numpy_helper.to_array(zero)))
        held = layout.activations.setdefault(node.input[1], Activation(grid, *ends))
        for name, place in edges:
            held.edges.setdefault(old[name].input[place], []).append((name, place))
        if output is not None:
            held.edges.setdefault(output, [])
            held.outputs.append(output)
    return layout


def _edges(graph: onnx.GraphProto, name: str, known: dict[str, NodeProto]) -> Iterator[Edge]:
    for node in graph.node:
        if node.name in known:
            for place, read in enumerate(node.input):
                if read == name:
                    yield node.name, place


def marked(model: onnx.ModelProto, layout: Layout) -> tuple[onnx.ModelProto, dict[str, str | StoredWeight]]:
    """The network with a pair of QuantizeLinear and DequantizeLinear wherever something is quantized, and what each pair is by the
    name of its second node: the name of an activation's range, or a weight. The pairs are signs: their scales say nothing.
    """
    found = onnx.ModelProto()
    found.CopyFrom(model)
    graph = found.graph
    nodes = {node.name: node for node in graph.node}
    marks: dict[str, str | StoredWeight] = {}
    added: list[NodeProto] = []
    zeros = {Grid: f"mark_zero_{place}" for place, Grid in enumerate(GRIDS.values())}
    for (kind, _), grid in GRIDS.items():
        array = np.zeros((), helper.tensor_dtype_to_np_dtype(kind))
        graph.initializer.append(numpy_helper.from_array(array, zeros[grid]))
    graph.initializer.append(numpy_helper.from_array(np.ones((), np.float32), "mark_scale"))

    def mark(name: str, grid: Grid, what: str | StoredWeight, to: str | None = None) -> str:
        number = len(marks)
        pair = f"mark_{number}", to or f"mark_{number}_read"
        given = ["mark_scale", zeros[grid]]
        added.append(helper.make_node("QuantizeLinear", [name, *given], [pair[0]], name=pair[0]))
        added.append(
            helper.make_node("DequantizeLinear", [pair[0], *given], [pair[1]], name=f"{pair[0]}_end")
        )
        marks[f"{pair[0]}_end"] = what
        return pair[1]

    for key, activation in layout.activations.items():
        for tensor, edges in activation.edges.items():
            source, to = tensor, None
            if tensor in activation.outputs:
                source, to = f"{tensor}__before_mark", tensor
                _rename(graph, tensor, source)
            read = mark(source, activation.grid, key, to)
            for name, place in edges:
                nodes[name].input[place] = read
    for weight in layout.weights:
        name, place = weight.edge
        nodes[name].input[place] = mark(nodes[name].input[place], weight.grid, weight)
    set_nodes(graph, [*added, *graph.node])
    sort_nodes(graph)
    return found, marks


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new


def bounds_of(graph: onnx.GraphProto) -> dict[str, tuple[float, float]]:
    """By tensor, what it cannot pass where a Relu or a Clip with constant bounds makes it."""
    arrays = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    found = {}
    for node in graph.node:
        if node.op_type == "Relu":
            found[node.output[0]] = (0.0, np.inf)
        elif node.op_type == "Clip":
            given = [*node.input[1:], "", ""][:2]
            if all(not name or name in arrays for name in given):
                ends = [float(numpy_helper.to_array(arrays[name])) if name else None for name in given]
                found[node.output[0]] = (
                    -np.inf if ends[0] is None else ends[0],
                    np.inf if ends[1] is None else ends[1],
                )
    return found
