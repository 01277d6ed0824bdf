"""ONNX models as `lineage` takes them."""

import re

import onnx
from onnx.inliner import inline_local_functions

from workers.profiling.lineage import Graph, Operation
from workers.profiling.onnx_labels import Level, labelled

# how ONNX Runtime calls what it makes of a node (`fused x`, `x/MatMulAddFusion`), what it makes of the node that gives a tensor
# (`x_nchwc`), a tensor that it computes in another type, and one that it takes out of a branch (`_if_then_branch_x`)
_LED = "InsertedPrecisionFreeCast_|(?:_if_(?:then|else)_branch_)+"
_LEADING = re.compile(rf"^(?:{_LED})")
_DECORATED = re.compile(
    rf"^(?:fused )?(?:{_LED})?(?P<name>.+?)(?:/\w+Fusion/?)*(?:_nchwc|_quant|_Q4|_Q8)?(?:_token_\d+)?$"
)


def onnx_graph(model: onnx.ModelProto) -> Graph:
    """The graph of a model, its local functions unfolded; labels are those of `onnx_labels.labelled`."""
    plain = inline_local_functions(model) if model.functions else model
    return _graph(labelled(plain.graph), frozenset())


def _graph(level: Level, outer: frozenset[str]) -> Graph:
    graph = level.graph
    constants = (
        outer
        | {tensor.name for tensor in graph.initializer}
        | {one.values.name for one in graph.sparse_initializer}
    )
    operations = []
    for place, (label, node) in enumerate(zip(level.labels, graph.node, strict=True)):
        bodies = {name: _graph(body, constants) for name, body in level.bodies.get(place, {}).items()}
        read = dict.fromkeys(name for name in node.input if name)
        operations.append(
            Operation(
                label=label,
                operator=node.op_type,
                names=(node.name,) if node.name else (),
                aliases=_aliases(node.name, node.op_type),
                inputs=tuple(read),
                outputs=_outputs(node),
                bodies=bodies,
            )
        )
    return Graph(operations, constants)


def _aliases(name: str, operator: str) -> tuple[str, ...]:
    """What is left of a node's name without decorations. A cast goes by the name of what it casts."""
    found = None if operator == "Cast" else _DECORATED.match(name)
    return (found["name"],) if found and found["name"] != name else ()


def _outputs(node: onnx.NodeProto) -> tuple[str, ...]:
    """What a node gives, and what that may be called in another graph. A cast gives the same in another type: it is not meant."""
    names = [name for name in node.output if name]
    if node.op_type == "Cast":
        return tuple(names)
    return tuple(dict.fromkeys(form for name in names for form in (name, _LEADING.sub("", name))))
