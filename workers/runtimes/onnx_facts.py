"""What an optimized ONNX graph says of its own speed: nodes by operator and precision, fused and unfused quantization."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from workers.onnx_files import graphs

FLOAT_COMPUTE = frozenset(
    [
        "Conv",
        "FusedConv",
        "NhwcFusedConv",
        "ConvTranspose",
        "Gemm",
        "FusedGemm",
        "MatMul",
        "FusedMatMul",
        "Attention",
        "MultiHeadAttention",
        "LSTM",
        "GRU",
        "RNN",
    ]
)
INT8_COMPUTE = frozenset(("QLinearConv", "QLinearMatMul", "QGemm", "QAttention"))
DYNAMIC_COMPUTE = frozenset(
    ("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
)
CONVERSIONS = frozenset(
    ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "ReorderInput", "ReorderOutput")
)
CONVOLUTIONS = frozenset(("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose"))
NO_FLOAT_RESULT = frozenset(
    ("Shape", "Size", "ArgMax", "ArgMin", "NonZero", "Equal", "Less", "Greater", "IsNaN", "Not")
)
BLOCKED = "com.microsoft.nchwc"  # the domain of operators on blocks of channels
NAMED = 10  # unfused nodes named; all are counted
_FLOATS: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
}


def graph_facts(path: Path) -> dict[str, Any]:
    """Facts of the model in a file; graphs inside control flow are counted too.

    `nodes`; `operators` {operator: nodes}; `precision` {fp32, fp16, int8, int8-dynamic, weights-4bit, weights-8bit,
    conversion, other: nodes}; `compute` {precision: nodes} of convolutions, matrix products and recurrent layers;
    `convolutions` {precision: nodes}; `conversions` {operator: nodes}; `unfused` {count, nodes} of compute nodes that
    work in floating point on dequantized input; `weights` and `half_weights` (elements of all constants, of those in
    fp16); `hardware_layout` (whether there are memory layouts for one vector width); `unblocked` {count, nodes} of convolutions
    that stay out of these layouts beside others that have them; `depthwise` (convolutions of one channel for each output).
    """
    model = onnx.load(str(path), load_external_data=False)
    operators: Counter[str] = Counter()
    precision: Counter[str] = Counter()
    compute: Counter[str] = Counter()
    convolutions: Counter[str] = Counter()
    unfused: list[str] = []
    plain: list[str] = []
    depthwise = 0
    weights = half_weights = 0
    kinds: dict[str, int] = {}
    dequantized: set[str] = set()
    for graph in graphs(model.graph):
        kinds |= _kinds(graph)
        shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        weights += sum(_elements(tensor) for tensor in graph.initializer)
        half_weights += sum(_elements(t) for t in graph.initializer if t.data_type == TensorProto.FLOAT16)
        for node in graph.node:
            if node.op_type == "DequantizeLinear":
                dequantized.update(node.output)
            operators[node.op_type] += 1
            where = _precision(node, kinds)
            _infer(node, where, kinds)
            precision[where] += 1
            if node.op_type in FLOAT_COMPUTE | INT8_COMPUTE | DYNAMIC_COMPUTE | {"MatMulNBits"}:
                compute[where] += 1
                if node.op_type in CONVOLUTIONS | {"QLinearConv", "ConvInteger"}:
                    convolutions[where] += 1
                    depthwise += _is_depthwise(node, shapes)
                    if where == "fp32" and node.domain != BLOCKED:
                        plain.append(node.name)
                if node.op_type in FLOAT_COMPUTE and not dequantized.isdisjoint(node.input[:2]):
                    unfused.append(node.name)
    blocked = any(node.domain == BLOCKED for graph in graphs(model.graph) for node in graph.node)
    return {
        "nodes": sum(operators.values()),
        "operators": dict(operators),
        "precision": dict(precision),
        "compute": dict(compute),
        "convolutions": dict(convolutions),
        "conversions": {kind: operators[kind] for kind in sorted(CONVERSIONS) if operators[kind]},
        "unfused": {"count": len(unfused), "nodes": unfused[:NAMED]},
        "weights": weights,
        "half_weights": half_weights,
        "hardware_layout": blocked,
        "unblocked": {"count": len(plain), "nodes": plain[:NAMED]} if blocked else {"count": 0, "nodes": []},
        "depthwise": depthwise,
    }


def _is_depthwise(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> bool:
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return groups > 1 and any(shape[1] == 1 for name in node.input if len(shape := shapes.get(name, [])) > 2)


def _precision(node: onnx.NodeProto, kinds: dict[str, int]) -> str:
    if node.op_type in CONVERSIONS:
        return "conversion"
    if node.op_type in DYNAMIC_COMPUTE:
        return "int8-dynamic"
    if node.op_type.startswith(("QLinear", "QGemm", "QAttention")):
        return "int8"
    if node.op_type == "MatMulNBits":
        bits = next((attribute.i for attribute in node.attribute if attribute.name == "bits"), 4)
        return f"weights-{bits}bit"
    found = {_FLOATS[kind] for name in (*node.input, *node.output) if (kind := kinds.get(name)) in _FLOATS}
    for widest in ("fp64", "fp32", "bf16", "fp16"):
        if widest in found:
            return widest
    return "other"


def _infer(node: onnx.NodeProto, precision: str, kinds: dict[str, int]) -> None:
    """Give a node's outputs a type where ONNX Runtime saved none: it does not for what its casts changed."""
    if node.op_type == "Cast":
        kind = next(attribute.i for attribute in node.attribute if attribute.name == "to")
    elif node.op_type == "DequantizeLinear":
        kind = kinds.get(node.input[1], TensorProto.FLOAT)
    elif precision in _FLOATS.values() and node.op_type not in NO_FLOAT_RESULT:
        kind = next(kind for kind, name in _FLOATS.items() if name == precision)
    else:
        return
    for name in node.output:
        kinds.setdefault(name, kind)


def _kinds(graph: onnx.GraphProto) -> dict[str, int]:
    values = (*graph.value_info, *graph.input, *graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    return kinds | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for dim in tensor.dims:
        count *= dim
    return count
