"""Floating point operations of an ONNX graph, counted from shapes: a multiply and an add are two.

Counted: convolutions, matrix products (Einsum of two tensors too), attention, recurrent cells (after the operators' definitions in the ONNX standard
and in ONNX Runtime's contrib operators). Elementwise work is not: it is bound by memory. Each subgraph counts once.
Free dimensions of the inputs are set to 1 before shapes are inferred, unless sizes are given; what then stays unknown counts as 1
too.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod

import onnx
from onnx import shape_inference

from workers.onnx_files import subgraphs

NOTE = (
    "multiply and add counted as two, for convolutions, matrix products, attention and recurrent cells; "
    "free dimensions as 1, each control-flow branch once"
)
Shapes = dict[str, list[int]]


def count_flops(model: onnx.ModelProto) -> tuple[int, list[str]]:
    """The operations of one inference, and the names of the nodes whose shapes were not known."""
    nodes = list(each_node(with_shapes(model).graph))
    unknown = [node.name or node.op_type for node, flops, _ in nodes if flops is None]
    return sum(flops or 0 for _, flops, _ in nodes), unknown


def each_node(
    graph: onnx.GraphProto, outer: Shapes | None = None
) -> Iterator[tuple[onnx.NodeProto, int | None, Shapes]]:
    """Every node with its operations (None where a shape is not known) and the shapes that its graph knows.

    Nodes inside a control-flow node follow it.
    """
    shapes = (outer or {}) | _known_shapes(graph)
    for node in graph.node:
        try:
            yield node, _counted(node_flops(node, shapes)), shapes
        except (KeyError, IndexError, ValueError):
            yield node, None, shapes
        for inner in subgraphs(node):
            yield from each_node(inner, shapes)


def node_flops(node: onnx.NodeProto, shapes: Shapes) -> int:
    """The operations of one node; 0 for operators that are not counted.

    Raises:
        KeyError, IndexError: a shape that it needs is not known.
    """
    rule = _RULES.get(node.op_type)
    return rule(node, shapes) if rule else 0


def with_shapes(model: onnx.ModelProto, given: Mapping[str, Sequence[int]] | None = None) -> onnx.ModelProto:
    """A copy with the shapes that can be inferred, for inputs of the `given` shapes; free dimensions of others are set to 1."""
    pinned = onnx.ModelProto()
    pinned.CopyFrom(model)
    sizes: dict[str, int] = {}
    for value in pinned.graph.input:
        dims = value.type.tensor_type.shape.dim
        told = (given or {}).get(value.name, ())
        for dim, size in zip(dims, told if len(told) == len(dims) else [1] * len(dims), strict=True):
            if dim.dim_value <= 0:
                if dim.dim_param:
                    sizes.setdefault(dim.dim_param, size)
                dim.dim_value = size
    for value in (*pinned.graph.value_info, *pinned.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes and given:
                dim.dim_value = sizes[dim.dim_param]
            elif dim.dim_value <= 0:
                dim.Clear()
    try:
        return shape_inference.infer_shapes(pinned, data_prop=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError):
        return pinned


def _counted(operations: int) -> int:
    """Raises ValueError for more than anybody computes: a shape that lies."""
    if operations >= 2**63:
        raise ValueError(operations)
    return operations


def _known_shapes(graph: onnx.GraphProto) -> Shapes:
    shapes = {
        value.name: [max(dim.dim_value, 1) for dim in value.type.tensor_type.shape.dim]
        for value in _values(graph)
        if value.type.tensor_type.HasField("shape")
    }
    shapes.update({tensor.name: list(tensor.dims) for tensor in graph.initializer})
    shapes.update({sparse.values.name: list(sparse.dims) for sparse in graph.sparse_initializer})
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                shapes[node.output[0]] = list(attribute.t.dims)
    return shapes


def _values(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto]:
    yield from graph.input
    yield from graph.value_info
    yield from graph.output


def _convolution(weight: int) -> Callable[[onnx.NodeProto, Shapes], int]:
    """Each output value is one product over the kernel and the input channels of its group; `weight` is its input."""
    return lambda node, shapes: 2 * prod(shapes[node.output[0]]) * prod(shapes[node.input[weight]][1:])


def _transposed(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Each input value is spread by the kernel over the output channels of its group."""
    return 2 * prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _product(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Each output value sums over the first input's last axis."""
    inner = shapes[node.input[0]][-2 if _integer(node, "transA") else -1]
    return 2 * prod(shapes[node.output[0]]) * inner


def _packed_product(node: onnx.NodeProto, shapes: Shapes) -> int:
    """MatMulNBits says its sizes itself: rows × K × N."""
    width = _integer(node, "K")
    return 2 * prod(shapes[node.input[0]][:-1]) * width * _integer(node, "N")


def _recurrent(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Both weight matrices (all gates, all directions) once for each step of each sequence."""
    length, batch = shapes[node.input[0]][:2]
    return 2 * length * batch * (prod(shapes[node.input[1]]) + prod(shapes[node.input[2]]))


def _attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Scores and weighted sum: two products of length × length × width, with the heads together.

    ai.onnx `Attention` and `MultiHeadAttention` take queries, keys and values of (batch, length, width) or
    (batch, heads, length, width); com.microsoft `Attention` takes (batch, length, width) and projects them first.
    """
    if node.domain == "com.microsoft" and node.op_type == "Attention":
        batch, length, _ = shapes[node.input[0]]
        width, projected = shapes[node.input[1]]
        return 2 * batch * length * width * projected + 4 * batch * length * length * (projected // 3)
    query, key = shapes[node.input[0]], shapes[node.input[1]]
    return 4 * prod(query) * key[-2]


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> int:
    given = [attribute.s.decode() for attribute in node.attribute if attribute.name == "equation"]
    return einsum_flops(given[0], [shapes[name] for name in node.input])


def einsum_flops(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """A product of two tensors is one term for each combination of their indices; one that sums nothing is elementwise.

    Of one tensor, or of more than two (whose order decides), nothing counts.

    Raises:
        ValueError, KeyError, IndexError: the equation does not fit the shapes.
    """
    read, _, made = equation.replace(" ", "").partition("->")
    terms = read.split(",")
    if len(terms) != 2 or len(shapes) != 2:
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        before, dots, after = term.partition("...")
        spread = len(shape) - len(before) - len(after)
        if spread < 0 or (spread and not dots):
            raise ValueError(f"{equation!r} does not fit {shapes}")
        # what the dots stand for is lined up from the right
        names = [*before, *(f"...{number}" for number in range(spread, 0, -1)), *after]
        for name, size in zip(names, shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    if made and set(terms[0]) == set(terms[1]) == set(made):
        return 0
    return 2 * prod(sizes.values())


def _integer(node: onnx.NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


_RULES: dict[str, Callable[[onnx.NodeProto, Shapes], int]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "FusedConv", "NhwcFusedConv"), _convolution(weight=1)),
    "QLinearConv": _convolution(weight=3),
    "ConvTranspose": _transposed,
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul", "FusedMatMul"), _product),
    **dict.fromkeys(
        ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "Gemm", "FusedGemm", "QGemm"), _product
    ),
    "MatMulNBits": _packed_product,
    "Einsum": _einsum,
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _recurrent),
    **dict.fromkeys(("Attention", "MultiHeadAttention"), _attention),
}
