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


def plain_module(module: Any, ranks: Sequence[int]) -> Any:
    """A copy with all calls inlined, whose weights stay parameters, without fast paths, and without dictionaries of values.

    `ranks` are the dimensions of its inputs: what branches on them is decided.

    Raises:
        RuntimeError: torch cannot inline it.
    """
    held = as_module(torch._C._freeze_module(module._c, preserveParameters=True))
    graph = held.graph
    _decide_ranks(graph, ranks)
    _leave_fast_paths(graph)
    _look_up(graph)
    torch._C._jit_pass_constant_propagation(graph)
    torch._C._jit_pass_dce(graph)
    return held


def _decide_ranks(graph: Any, ranks: Sequence[int]) -> None:
    known = {value.debugName(): rank for value, rank in zip(list(graph.inputs())[1:], ranks, strict=True)}
    for node in list(nodes_of(graph)):
        if node.kind() == "aten::dim" and (rank := known.get(node.inputsAt(0).debugName())) is not None:
            graph.setInsertPoint(node)
            node.output().replaceAllUsesWith(graph.insertConstant(rank))
    graph.setInsertPoint(graph.return_node())


def _leave_fast_paths(graph: Any) -> None:
    """Decide each branch between such a call and none for the side without: those whose condition is that a text is empty."""
    for node in list(nodes_of(graph)):
        if node.kind() != "prim::If" or not _asks_for_text(node.inputsAt(0).node()):
            continue
        makes = [any(inner.kind() in _FAST for inner in nodes_of(block)) for block in node.blocks()]
        if any(makes):
            graph.setInsertPoint(node)
            node.replaceInput(0, graph.insertConstant(not makes[0]))
    graph.setInsertPoint(graph.return_node())  # the others may go, and torch does not survive that


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
