"""What a TorchScript graph must lose before it becomes ONNX: torch's fast paths for attention, and dictionaries."""

from collections.abc import Sequence
from typing import Any

import torch

from workers.torch.script_audit import nodes_of
from workers.torch.script_file import as_module

# calls that torch's own layers make where they may, and do without where they may not (torch/nn/modules/activation.py and
# transformer.py); the condition is a text that says why not, which no other runtime has
_FAST = {
    "aten::_transformer_encoder_layer_fwd", "aten::_native_multi_head_attention", "aten::_nested_tensor_from_mask",
}  # fmt: skip
_CONDITIONS = {"aten::__not__", "aten::gt", "aten::__and__", "aten::Bool"}
# the same for all inputs of the declared ranks: how many dimensions a value has, and whether two are one
_SETTLED = {"aten::dim", "aten::__is__", "aten::__isnot__", "prim::is_nested"}
_MOST_ROUNDS = 50


def plain_module(module: Any, examples: Sequence[Sequence[torch.Tensor]]) -> Any:
    """A copy with all calls inlined, whose weights stay parameters, without fast paths, and without dictionaries of values.

    `examples` are inputs of different sizes with which it runs: what branches on their ranks is decided.

    Raises:
        RuntimeError: torch cannot inline it, or it does not run.
    """
    held = as_module(torch._C._freeze_module(module._c, preserveParameters=True))
    graph = held.graph
    _leave_fast_paths(graph)
    _look_up(graph)
    for _ in range(_MOST_ROUNDS):  # what is decided brings inner branches out
        torch._C._jit_pass_constant_propagation(graph)
        torch._C._jit_pass_dce(graph)
        if not _settle(graph, held, examples):
            break
    _spell_out_unflatten(graph, held, examples[0])
    return held


def _spell_out_unflatten(graph: Any, held: Any, example: Sequence[torch.Tensor]) -> None:
    """Write splits of the last dimension as views: of those the exporter knows the rank."""
    nodes = list(graph.nodes())
    places = [place for place, node in enumerate(nodes) if node.kind() == "aten::unflatten"]
    for place, found in _values(graph, places, held, example).items():
        node = nodes[place]
        value, axis, sizes = node.inputsAt(0), node.inputsAt(1).toIValue(), node.inputsAt(2).toIValue()
        if sizes is None or axis != -1:
            continue
        graph.setInsertPoint(node)
        kept = [
            _insert(graph, "aten::size", [value, graph.insertConstant(axis)], torch._C.IntType.get())
            for axis in range(found.dim() - len(sizes))
        ]
        shape = [*kept, *map(graph.insertConstant, sizes)]
        listed = _insert(graph, "prim::ListConstruct", shape, torch._C.ListType.ofInts())
        viewed = _insert(graph, "aten::view", [value, listed], torch._C.TensorType.get())
        node.output().replaceAllUsesWith(viewed)
    graph.setInsertPoint(graph.return_node())
    torch._C._jit_pass_dce(graph)


def _insert(graph: Any, kind: str, inputs: Sequence[Any], output: Any) -> Any:
    node = graph.insertNode(graph.create(kind, list(inputs), 1))
    node.output().setType(output)
    return node.output()


def _settle(graph: Any, held: Any, examples: Sequence[Sequence[torch.Tensor]]) -> bool:
    """Put what runs agree on for a rank or an identity in its place; whether one was found outside of branches and loops."""
    nodes = list(graph.nodes())
    places = [place for place, node in enumerate(nodes) if node.kind() in _SETTLED or _shapes_layers(node)]
    first, *others = (_values(graph, places, held, example) for example in examples)
    agreed = {
        place: value for place, value in first.items() if all(value == other[place] for other in others)
    }
    for place, value in agreed.items():
        graph.setInsertPoint(nodes[place])
        nodes[place].output().replaceAllUsesWith(graph.insertConstant(value))
    graph.setInsertPoint(graph.return_node())  # the nodes may go, and torch does not survive that
    return bool(agreed)


def _shapes_layers(node: Any) -> bool:
    """Whether it is the size that the attention of torch's own layers splits its projections by: one that is fixed."""
    if node.kind() != "aten::size" or str(node.output().type()) != "int":
        return False
    lists = [use.user for use in node.output().uses() if use.user.kind() == "prim::ListConstruct"]
    return any(use.user.kind() == "aten::unflatten" for made in lists for use in made.output().uses())


def _values(graph: Any, places: Sequence[int], held: Any, example: Sequence[torch.Tensor]) -> dict[int, Any]:
    """What the nodes at some places give in a run; those of a type run together."""
    by_type: dict[str, list[int]] = {}
    nodes = list(graph.nodes())
    for place in places:
        by_type.setdefault(str(nodes[place].output().type()), []).append(place)
    found: dict[int, Any] = {}
    make: Any = torch._C._create_function_from_graph
    for alike in by_type.values():
        watched = graph.copy()
        inner = list(watched.nodes())
        outputs = [inner[place].output() for place in alike]
        for _ in list(watched.outputs()):
            watched.eraseOutput(0)
        watched.setInsertPoint(watched.return_node())
        kind = torch._C.ListType(outputs[0].type())
        watched.registerOutput(_insert(watched, "prim::ListConstruct", outputs, kind))
        with torch.inference_mode():
            found |= zip(alike, make("watched", watched)(held._c, *example), strict=True)
    return found


def _leave_fast_paths(graph: Any) -> None:
    """Decide each branch between such a call and none for the side without: those whose condition is that a text is empty."""
    for node in list(nodes_of(graph)):
        if node.kind() != "prim::If" or not _asks_for_text(node.inputsAt(0).node()):
            continue
        makes = [any(inner.kind() in _FAST for inner in nodes_of(block)) for block in node.blocks()]
        if any(makes):
            graph.setInsertPoint(node)
            node.replaceInput(0, graph.insertConstant(not makes[0]))
    graph.setInsertPoint(graph.return_node())


def _asks_for_text(node: Any) -> bool:
    if node.kind() == "aten::len":
        return bool(str(node.inputsAt(0).type()) == "str")
    return node.kind() in _CONDITIONS and any(_asks_for_text(value.node()) for value in node.inputs())


def _look_up(graph: Any) -> None:
    """Replace what is read from a dictionary by what was put there."""
    for node in list(nodes_of(graph)):
        if node.kind() != "aten::__getitem__":
            continue
        holder, key = (value.node() for value in node.inputs())
        if holder.kind() != "prim::DictConstruct" or key.kind() != "prim::Constant":
            continue
        given = list(holder.inputs())
        for name, value in zip(given[::2], given[1::2], strict=True):
            if name.toIValue() == key.output().toIValue():
                node.output().replaceAllUsesWith(value)
                break
