"""Strides of tensors that can be laid out in several ways: an axis of size 1 has any."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true


@contextmanager
def plain_strides(program: ExportedProgram) -> Iterator[None]:
    """While the block runs, tensors that are contiguous have the strides of such.

    A channel alone, as a transposition leaves it, looks like channels that lie last. Convolutions then leave theirs so too, and
    PyTorch's exporter to ONNX, which runs decompositions more than once, writes a `view` that the next run refuses.
    """
    graph = program.graph_module.graph
    copies = []
    for node in list(graph.nodes):
        value = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, Tensor) and _is_ambiguous(value):
            with graph.inserting_after(node):
                form = {"memory_format": torch.contiguous_format}
                copy = graph.call_function(torch.ops.aten.clone.default, (node,), form)
            copy.meta["val"] = value.clone(memory_format=torch.contiguous_format)
            node.replace_all_uses_with(copy, delete_user_cb=lambda user, own=copy: _reads(user, own))
            copies.append(copy)
    if copies:
        program.graph_module.recompile()
    try:
        yield
    finally:
        for copy in copies:
            copy.replace_all_uses_with(copy.args[0])
            graph.erase_node(copy)
        if copies:
            program.graph_module.recompile()


def _reads(user: Node, copy: Node) -> bool:
    """Outputs of the program keep their names."""
    return user is not copy and user.op != "output"


def _is_ambiguous(value: Tensor) -> bool:
    """Whether it is contiguous, and an axis of size 1 has another stride than it had then. What is not known counts as no."""
    if value.layout != torch.strided:
        return False
    odd, plain = False, 1
    for size, stride in zip(reversed(value.shape), reversed(value.stride()), strict=True):
        same = statically_known_true(stride == plain)
        if isinstance(size, int) and size == 1:
            odd |= not same
        elif not same:
            return False
        plain *= size
    return odd
