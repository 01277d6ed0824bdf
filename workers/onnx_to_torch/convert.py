"""An ONNX model as a PyTorch module that can be trained, pruned, quantized and exported."""

from collections.abc import Iterator, Mapping

import onnx
from onnx import inliner
from torch import fx, nn

from app.errors import UnsupportedOperator
from workers.onnx_files import graphs, opset_of
from workers.onnx_to_torch import (  # noqa: F401 - they register operators
    activations,
    attention,
    control_flow,
    convolution,
    elementwise,
    indexing,
    layers,
    linear,
    logic,
    losses,
    normalization,
    padding,
    pooling,
    quantization,
    random_ops,
    recurrent,
    recurrent_layers,
    reductions,
    resize,
    sequences,
    shape_ops,
    spectra,
    types,
    vision,
)
from workers.onnx_to_torch.build import STAGE, Builder
from workers.onnx_to_torch.model import Model, Node
from workers.onnx_to_torch.registry import LAYERS, OPERATORS, REFUSALS
from workers.onnx_to_torch.types import TYPES, type_name

OLDEST_OPSET = 7
_HINT = (
    "let the passes work on the ONNX model itself, or upload the network in the format that it was trained in"
)


def to_module(model: onnx.ModelProto) -> nn.Module:
    """The network of a model with its weights loaded, in eval mode; the model is left as it is.

    It takes the model's inputs by position, in the graph's order and without those that are initializers, and returns a tuple of
    the outputs in the graph's order. Convolutions, linear layers, normalizations, embeddings and recurrent layers are
    `torch.nn`'s. A floating constant of several elements is a parameter, unless it is a mask or has no gradient; what one
    initializer was is one parameter. All other constants are buffers or numbers.

    Raises:
        UnsupportedOperator: nodes that cannot be converted; `errors` names all of them.
    """
    return converted(model)[0].eval()


def converted(model: onnx.ModelProto) -> tuple[fx.GraphModule, Mapping[tuple[str, str], nn.Parameter]]:
    """As `to_module`; with it its parameters by the name of the initializer and what was done to it: nothing, or `turned`."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    found = Model(model)
    _check(model, found)
    return Builder(model.graph, found).run(), found.parameters


def _check(proto: onnx.ModelProto, model: Model) -> None:
    """Raises UnsupportedOperator where a node is none of ours, all such nodes at once."""
    if 0 < (opset := opset_of(proto)) < OLDEST_OPSET:  # 0: it uses no operator of the standard's main domain
        raise UnsupportedOperator(
            f"the model uses opset {opset}; older ones than {OLDEST_OPSET} are not converted to PyTorch",
            stage=STAGE,
            hint=f"export it with opset 18, or bring it to {OLDEST_OPSET} or later with onnx.version_converter",
        )
    errors = [
        {"operator": node.kind, "node": node.name, "reason": reason}
        for node in _nodes(proto, model)
        if (reason := _reason(node)) is not None
    ]
    errors += [
        {"operator": "input", "node": value.name, "reason": reason}
        for value in proto.graph.input
        if (reason := _type_reason(value.type)) is not None
    ]
    errors += [
        {"operator": "initializer", "node": tensor.name, "reason": f"the type {type_name(tensor.data_type)}"}
        for graph in graphs(proto.graph)
        for tensor in graph.initializer
        if tensor.data_type not in TYPES
    ]
    if errors:
        named = ", ".join(dict.fromkeys(f"{entry['operator']} ({entry['reason']})" for entry in errors))
        raise UnsupportedOperator(
            f"{len(errors)} of the model's nodes cannot be converted to PyTorch: {named}",
            stage=STAGE,
            node=errors[0]["node"],
            hint=_HINT,
            errors=errors,
        )


def _nodes(proto: onnx.ModelProto, model: Model) -> Iterator[Node]:
    for graph in graphs(proto.graph):
        for number, entry in enumerate(graph.node):
            yield model.node(entry, number)


def _reason(node: Node) -> str | None:
    if node.kind == "Constant":
        held = set(node.attributes)
        if held & {"value_string", "value_strings", "sparse_value"}:
            return "text or a sparse tensor"
        value = node.attributes.get("value")
        return f"the type {type_name(value.data_type)}" if isinstance(value, onnx.TensorProto) else None
    refuses = REFUSALS.get(node.kind)
    if refuses is not None and (reason := refuses(node)) is not None:
        return reason
    spec = OPERATORS.get(node.kind)
    if spec is None:
        return None if node.kind in LAYERS else "the operator is not known"
    unknown = sorted(set(node.attributes) - spec.attributes)
    if unknown and node.kind not in LAYERS:
        return f"the attribute {', '.join(unknown)}"
    return None


def _type_reason(kind: onnx.TypeProto) -> str | None:
    number = kind.tensor_type.elem_type if kind.HasField("tensor_type") else 0
    return f"the type {type_name(number)}" if number and number not in TYPES else None
