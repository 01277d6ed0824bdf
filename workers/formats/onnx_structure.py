"""The structure report of an ONNX graph, node by node."""

from collections.abc import Iterator
from math import prod
from typing import Any

import onnx
from onnx import TensorProto
from onnx.inliner import inline_local_functions

from workers.formats.flops import Shapes, each_node, with_shapes
from workers.onnx_files import graphs
from workers.surgery.savings import Weight
from workers.surgery.structure import Row, report

SOURCE = "onnx"
_SHAPES_AND_TEXT = {TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING}


def of_onnx(model: onnx.ModelProto) -> dict[str, Any]:
    """The report of a model that is valid, with or without the values of its weights."""
    plain_graph = inline_local_functions(model) if model.functions else model
    return report(_rows(with_shapes(plain_graph)), SOURCE)


def _rows(model: onnx.ModelProto) -> Iterator[Row]:
    """Nodes with weights or FLOPs. A weight is its first reader's; what is computed from constants alone carries theirs on."""
    carried = dict(_weights(model))
    for number, (node, flops, shapes) in enumerate(each_node(model.graph)):
        read = [name for name in node.input if name]
        made = node.output[0] if node.output else ""
        own = sum(carried.get(name, 0) for name in read)
        if read and all(name in carried for name in read):
            carried |= {**dict.fromkeys(read, 0), made: own}
            continue
        carried |= {name: 0 for name in read if name in carried}
        if own or flops or flops is None:
            yield Row(
                name=node.name or f"{node.op_type}_{number}",
                kind=node.op_type,
                parameters=own,
                flops=flops,
                output=tuple(shapes.get(made, [])[1:]),
                weight=_weight(node, shapes, carried),
            )


def _weights(model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Constants and their elements; those of shapes, switches and text, and single numbers, count as none."""
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            yield tensor.name, _elements(tensor)
        for sparse in graph.sparse_initializer:
            yield sparse.values.name, prod(sparse.values.dims)
        for node in graph.node:
            if node.op_type == "Constant" and node.output:
                held = [attribute.t for attribute in node.attribute if attribute.name == "value"]
                yield node.output[0], sum(map(_elements, held))


def _elements(tensor: TensorProto) -> int:
    size = prod(tensor.dims)
    return 0 if size == 1 or tensor.data_type in _SHAPES_AND_TEXT else size


def _weight(node: onnx.NodeProto, shapes: Shapes, constants: dict[str, int]) -> Weight | None:
    """The weight of a convolution or of a product with a constant matrix."""
    if node.domain not in ("", "ai.onnx") or len(node.input) < 2 or node.input[1] not in constants:
        return None
    shape = tuple(shapes.get(node.input[1], ()))
    given = {attribute.name: attribute for attribute in node.attribute}
    bias = prod(shapes.get(node.input[2], [0])) if len(node.input) > 2 and node.op_type != "MatMul" else 0
    if node.op_type == "Conv" and len(shape) > 2:
        return Weight(shape, True, given["group"].i if "group" in given else 1, bias)
    if node.op_type not in ("MatMul", "Gemm") or len(shape) != 2:
        return None
    turned = node.op_type == "Gemm" and "transB" in given and given["transB"].i
    return Weight(shape if turned else shape[::-1], False, bias=bias)
