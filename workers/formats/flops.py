"""Floating point operations of an ONNX graph, counted from shapes: a multiply and an add are two.

Counted: convolutions, matrix products, recurrent cells (after the operators' definitions in the ONNX standard). Elementwise
work is not: it is bound by memory. Each subgraph counts once; a free dimension counts as 1, or less where that is unknown.
"""

from collections.abc import Iterable, Mapping
from math import prod

import onnx

from workers.onnx_files import graphs

NOTE = (
    "multiply and add counted as two, for convolutions, matrix products and recurrent cells; "
    "free dimensions as 1, each control-flow branch once"
)
_RECURRENT = {"LSTM", "GRU", "RNN"}
Shapes = Mapping[str, list[int]]


def count_flops(model: onnx.ModelProto) -> tuple[int, list[str]]:
    """The operations of one inference, and the names of the nodes whose shapes were not known."""
    total = 0
    unknown = []
    for graph in graphs(model.graph):
        shapes = known_shapes(graph)
        for node in graph.node:
            try:
                total += node_flops(node, shapes)
            except (KeyError, IndexError):
                unknown.append(node.name or node.op_type)
    return total, unknown


def node_flops(node: onnx.NodeProto, shapes: Shapes) -> int:
    """The operations of one node; 0 for operators that are not counted.

    Raises:
        KeyError, IndexError: a shape that it needs is not known.
    """
    kind = node.op_type
    if kind in ("Conv", "ConvInteger", "FusedConv"):
        weight, out = shapes[node.input[1]], shapes[node.output[0]]
        return 2 * prod(out) * prod(weight[1:])
    if kind == "QLinearConv":
        weight, out = shapes[node.input[3]], shapes[node.output[0]]
        return 2 * prod(out) * prod(weight[1:])
    if kind == "ConvTranspose":
        data, weight = shapes[node.input[0]], shapes[node.input[1]]
        return 2 * prod(data) * prod(weight[1:])
    if kind in ("MatMul", "MatMulInteger", "FusedMatMul"):
        return 2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if kind == "QLinearMatMul":
        return 2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if kind in ("MatMulNBits", "DynamicQuantizeMatMul"):
        return 2 * prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if kind in ("Gemm", "FusedGemm"):
        inner = shapes[node.input[0]][0 if _attribute(node, "transA") else 1]
        return 2 * prod(shapes[node.output[0]]) * inner
    if kind in _RECURRENT:
        return _recurrent(node, shapes)
    return 0


def known_shapes(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """The shape of every value that has one, free dimensions as 1."""
    shapes = {
        value.name: [max(dim.dim_value, 1) for dim in value.type.tensor_type.shape.dim]
        for value in _values(graph)
        if value.type.tensor_type.HasField("shape")
    }
    shapes.update({tensor.name: list(tensor.dims) for tensor in graph.initializer})
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                shapes[node.output[0]] = list(attribute.t.dims)
    return shapes


def _values(graph: onnx.GraphProto) -> Iterable[onnx.ValueInfoProto]:
    yield from graph.input
    yield from graph.value_info
    yield from graph.output


def _recurrent(node: onnx.NodeProto, shapes: Shapes) -> int:
    length, batch = shapes[node.input[0]][:2]
    weights = prod(shapes[node.input[1]]) + prod(shapes[node.input[2]])
    return 2 * length * batch * weights


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)
