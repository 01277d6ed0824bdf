"""Where a node of a program stands in the network's source and among its modules."""

import re
from collections.abc import Iterator

import torch
from torch.export import ExportedProgram

from workers.torch.noise import quiet

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
_TORCHS_OWN = ("/site-packages/torch/", "<")


def place_of(program: ExportedProgram, name: str, operator: str) -> str | None:
    """`net.py:12 in forward, module 'encoder.0'` for a node of a program, or of what it decomposes to; None where unknown.

    `operator` is its target (`aten.mul.Tensor`): where no node has the name, the first with that target counts.
    """
    for nodes in _graphs(program):
        called = [node for node in nodes if str(node.target) == operator]
        for node in sorted(called, key=lambda node: node.name != name):
            parts = [source_of(str(node.meta.get("stack_trace") or "")), _module(node)]
            return ", ".join(part for part in parts if part) or None
    return None


def source_of(stack_trace: str) -> str | None:
    """The innermost line of a stack trace that is not torch's own, as `file:line in function`."""
    found = [
        frame
        for frame in _FRAME.finditer(stack_trace)
        if not any(own in frame["file"] for own in _TORCHS_OWN)
    ]
    if not found:
        return None
    file = found[-1]["file"].rpartition("/site-packages/")[2]
    return f"{file}:{found[-1]['line']} in {found[-1]['function']}"


def _graphs(program: ExportedProgram) -> Iterator[list[torch.fx.Node]]:
    yield list(program.graph.nodes)
    with quiet():
        decomposed = program.run_decompositions()
    yield list(decomposed.graph.nodes)


def _module(node: torch.fx.Node) -> str | None:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]).removeprefix("L['self'].") if stack else ""
    return f"module {path!r}" if path else None
