"""An exported program as a module that trains: layers are real ones again (`Conv2d`, `Linear`, `BatchNorm2d` …).

What export wrote as a call of an operator with its weights becomes the layer that makes that call, under the name that its
weights had. So what works on modules works on it: optimizers, `train()`, hooks, pruning, quantization, export anew.
"""

import operator
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.utils._pytree import TreeSpec

from app.errors import UnsupportedOperator
from workers.torch.layers import BUILDERS, Layer, Weights, arguments
from workers.torch.place import place_of

STAGE = "opening"
CALL = "call"  # in the `meta` of a node that calls a layer: the name of the program's node that it stands for
_INFERENCE_ONLY = {"_native_multi_head_attention", "_transformer_encoder_layer_fwd"}  # have no derivative


def lift(program: ExportedProgram) -> nn.Module:
    """The network of a program, with real layers, in eval mode.

    It takes the program's tensors by position, in the order of `program_inputs`, and returns the same tree (of tuples, lists
    and dicts). Every weight is a parameter of its own memory that gets gradients; weights that were one stay one.

    Raises:
        UnsupportedOperator: the program holds a call that has no derivative.
    """
    held = program.module(check_guards=False)
    graph: fx.Graph = held.graph
    _check_trainable(program)
    weights = Weights(held, set(program.graph_signature.parameters))
    layers = _replace_calls(graph, weights)
    _speak_plainly(graph, program)
    root = _assemble(held, graph, layers, weights)
    lifted = fx.GraphModule(root, graph, class_name="Lifted")
    lifted.graph.lint()
    return lifted.eval()


def _check_trainable(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        name = getattr(getattr(node.target, "_schema", None), "name", "")
        if name.removeprefix("aten::") in _INFERENCE_ONLY:
            place = place_of(program, node.name, str(node.target))
            raise UnsupportedOperator(
                f"{node.target} has no derivative, so the network cannot be trained",
                stage=STAGE,
                node=f"{node.target} at {place}" if place else str(node.target),
                hint="export it with torch.backends.mha.set_fastpath_enabled(False)",
            )


def _replace_calls(graph: fx.Graph, weights: Weights) -> dict[str, nn.Module]:
    """Put a layer in place of each call that one makes; the layers by name. The same layer called twice stays one."""
    layers: dict[str, nn.Module] = {}
    known: dict[Any, str] = {}
    for node in list(graph.nodes):
        build = BUILDERS.get(node.target) if node.op == "call_function" else None
        layer = build(arguments(node), weights, node) if build else None
        if layer is None:
            continue
        key = layer.key if layer.weights else node
        if key not in known:
            known[key] = _free_name(layer, node, layers)
            layers[known[key]] = layer.module
        _call(graph, node, known[key], layer)
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return layers


def _call(graph: fx.Graph, node: fx.Node, name: str, layer: Layer) -> None:
    with graph.inserting_before(node):
        called = graph.create_node("call_module", name, layer.inputs)
        called.meta = {**node.meta, CALL: node.name}
    if layer.outputs is None:
        node.replace_all_uses_with(called)
        graph.erase_node(node)
        return
    for user in list(node.users):
        with graph.inserting_before(user):
            value = called
            for index in layer.outputs[cast(int, user.args[1])]:
                value = graph.call_function(operator.getitem, (value, index))
            value.meta = dict(user.meta)
        user.replace_all_uses_with(value)
        graph.erase_node(user)
    graph.erase_node(node)


def _free_name(layer: Layer, node: fx.Node, taken: dict[str, nn.Module]) -> str:
    """What the network called the layer; where it was none of its own, `a.in_proj` for the weight `a.in_proj_weight`."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = (str(part) for part in stack[-1][:2]) if stack else ("", "")
    name = path.removeprefix("L['self'].")
    if layer.weights and not kind.endswith(f".{type(layer.module).__name__}"):
        owner, _, last = layer.weights[0].rpartition(".")
        name = ".".join(part for part in (owner, last.removesuffix("weight").removesuffix("_")) if part)
    base = name = (
        name
        if all(part.isidentifier() or part.isdigit() for part in name.split("."))
        else f"{node.name}_layer"
    )
    number = 1
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name


def _speak_plainly(graph: fx.Graph, program: ExportedProgram) -> None:
    """Give the graph a `forward` of its tensors alone: inputs that the program fixed (`None`, numbers) go.

    Outputs come in tuples, lists and dicts: fx carries no other trees through copies.
    """
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node, name in zip(placeholders, program.graph_signature.user_inputs, strict=True):
        if not isinstance(name, str):
            graph.erase_node(node)
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    values = output.args[0] if isinstance(output.args[0], tuple | list) else (output.args[0],)
    with graph.inserting_before(output):
        graph.output(_plain_tree(program.call_spec.out_spec, iter(values)))
    graph.erase_node(output)
    graph.set_codegen(fx.graph.CodeGen())


def _plain_tree(tree: TreeSpec, values: Iterator[Any]) -> Any:
    if tree.is_leaf():
        return next(values)
    inner = [_plain_tree(child, values) for child in tree.children()]
    keys = tree.context
    if issubclass(tree.type, dict) and isinstance(keys, list | tuple):
        return dict(zip(keys, inner, strict=True))
    return inner if tree.type is list else tuple(inner)


def _assemble(held: nn.Module, graph: fx.Graph, layers: dict[str, nn.Module], weights: Weights) -> nn.Module:
    """A module with the layers and all else that the graph reads, under their names. Outer layers first: inner ones go into them."""
    root = nn.Module()
    for name in sorted(layers, key=lambda name: (name.count("."), name)):
        owner, last = _owner(root, name)
        owner.add_module(last, layers[name])
    for name in _attributes(graph):
        owner, last = _owner(root, name)
        value = weights.value(name)
        if isinstance(value, nn.Parameter):
            owner.register_parameter(last, value)
        elif isinstance(value, torch.Tensor):
            owner.register_buffer(last, value)
        else:
            setattr(owner, last, value)
    return root


def _attributes(graph: fx.Graph) -> Iterator[str]:
    yield from dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "get_attr")


def _owner(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    *path, last = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    return root, last
