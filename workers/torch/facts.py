"""What an exported program says of its own speed: nodes by operator and precision, layers that were quantized."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

CONVOLUTIONS = frozenset(
    [
        "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution",
    ]
)  # fmt: skip
COMPUTE = CONVOLUTIONS | frozenset(
    [
        "linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "einsum", "bilinear", "_int_mm", "lstm", "gru", "rnn_tanh",
        "rnn_relu", "scaled_dot_product_attention", "multi_head_attention_forward",
    ]
)  # fmt: skip
CONVERSIONS = frozenset(
    [
        "quantize_per_tensor", "quantize_per_channel", "dequantize_per_tensor", "dequantize_per_channel", "choose_qparams",
        "to", "_to_copy",
    ]
)  # fmt: skip
_SHAPES = frozenset(
    [
        "view", "reshape", "permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "flatten", "contiguous",
        "clone", "to", "_to_copy", "alias", "detach",
    ]
)  # fmt: skip
_FLOATS = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class Layer(NamedTuple):
    """A node that computes: its name, its operator, the precision of its numbers, and what it was quantized to, if so."""

    name: str
    operator: str
    precision: str
    quantized: str | None  # int8, int8-dynamic, weights-8bit


def program_facts(program: ExportedProgram) -> dict[str, Any]:
    """Facts of a program as eager PyTorch runs it, with the keys of `onnx_facts.graph_facts`; subgraphs are counted too.

    Nodes that compute (convolutions, products, recurrent layers) on dequantized values are `unfused`: they compute in
    floating point.
    """
    operators: Counter[str] = Counter()
    precision: Counter[str] = Counter()
    for node in _calls(program):
        operators[operator(node)] += 1
        precision["conversion" if operator(node) in CONVERSIONS else _precision(node)] += 1
    found = layers(program)
    unfused = [layer.name for layer in found if layer.quantized in ("int8", "int8-dynamic")]
    return {
        "nodes": sum(operators.values()),
        "operators": dict(operators),
        "precision": dict(precision),
        "compute": dict(Counter(layer.precision for layer in found)),
        "convolutions": dict(Counter(layer.precision for layer in found if layer.operator in CONVOLUTIONS)),
        "conversions": {kind: operators[kind] for kind in sorted(CONVERSIONS) if operators[kind]},
        "unfused": {"count": len(unfused), "nodes": unfused[:10]},
        **weights(program),
        "hardware_layout": False,
    }


def weights(program: ExportedProgram) -> dict[str, int]:
    """`weights` and `half_weights`: elements of all constants, of those in fp16; `model_half_weights` is the same."""
    tensors = [
        value
        for value in (*program.state_dict.values(), *program.constants.values())
        if isinstance(value, torch.Tensor)
    ]
    half = sum(tensor.numel() for tensor in tensors if tensor.dtype == torch.float16)
    return {
        "weights": sum(tensor.numel() for tensor in tensors),
        "half_weights": half,
        "model_half_weights": half,
    }


def layers(program: ExportedProgram) -> list[Layer]:
    """The nodes that compute, in order."""
    return [
        Layer(node.name, operator(node), _precision(node), _quantized(node))
        for node in _calls(program)
        if operator(node) in COMPUTE
    ]


def operator(node: Node) -> str:
    """An operator without namespace and overload: `conv2d`."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.partition("::")[2]
    return getattr(target, "__name__", str(target))


def _calls(program: ExportedProgram) -> Iterator[Node]:
    """Every node that does something to a tensor: reading sizes and taking one of several results does not."""
    for module in program.graph_module.modules():
        if not isinstance(module, GraphModule):
            continue
        for node in module.graph.nodes:
            target = node.target
            called = isinstance(target, torch._ops.OpOverload | torch._ops.HigherOrderOperator)
            if called and not operator(node).startswith(("sym_", "_assert")):
                yield node


def _precision(node: Node) -> str:
    values = [node.meta.get("val"), *(source.meta.get("val") for source in node.all_input_nodes)]
    flat = [one for value in values for one in (value if isinstance(value, tuple | list) else [value])]
    found = {_FLOATS.get(value.dtype) for value in flat if isinstance(value, torch.Tensor)}
    return next((name for name in ("fp64", "fp32", "bf16", "fp16") if name in found), "other")


def _quantized(node: Node) -> str | None:
    sources = [_origin(argument) for argument in node.args[:2] if isinstance(argument, Node)]
    if len(sources) < 2:
        return None
    values, weight = sources
    if operator(weight).startswith("dequantize"):
        if not operator(values).startswith("dequantize"):
            return "weights-8bit"
        ranges = [operator(source) for source in _ancestors(values, 3)]
        return "int8-dynamic" if "choose_qparams" in ranges else "int8"
    held = weight.meta.get("val")
    return "weights-8bit" if isinstance(held, torch.Tensor) and held.dtype == torch.int8 else None


def _origin(node: Node) -> Node:
    """What a value was before it was reshaped, transposed, or cast."""
    while operator(node) in _SHAPES and node.args and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def _ancestors(node: Node, depth: int) -> Iterator[Node]:
    for source in node.all_input_nodes if depth else ():
        yield source
        yield from _ancestors(source, depth - 1)
