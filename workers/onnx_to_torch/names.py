"""Names in a module for what has names in a graph."""

import keyword
import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from workers.onnx_to_torch.model import Node


def layer_name(node: Node, weight: str) -> str:
    """`features.0.conv` for a weight `features.0.conv.weight`; else as the node is called: `/encoder/layer.0/MatMul`."""
    owner, _, last = weight.rpartition(".")
    return owner if owner and last.isidentifier() else node.name


def dotted(name: str) -> str:
    """A path of attribute names: identifiers or numbers, none of them Python's or a module's own."""
    parts = [re.sub(r"\W", "_", part) for part in re.split(r"[./:]+", name) if part]
    return ".".join(_allowed(part) for part in parts) or "unnamed"


def _allowed(part: str) -> str:
    if part.isdigit():
        return part
    if not part.isidentifier():
        part = f"_{part}"
    taken = keyword.iskeyword(part) or hasattr(nn.Module, part) or part in _INSTANCE
    return f"{part}_" if taken else part


_INSTANCE = frozenset(nn.Module().__dict__)


def free_name(name: str, taken: Iterable[str]) -> str:
    """A path that neither is one of these, nor leads through one, nor into one."""
    taken = set(taken)
    wanted = dotted(name)
    if any(other.startswith(f"{wanted}.") or wanted.startswith(f"{other}.") for other in taken):
        wanted = wanted.replace(".", "_")
    found, number = wanted, 1
    while found in taken or any(other.startswith(f"{found}.") for other in taken):
        number += 1
        found = f"{wanted}_{number}"
    return found


def assembled(parts: Mapping[str, nn.Module | Tensor]) -> nn.Module:
    """A module that holds these under their paths: layers, parameters and buffers."""
    root = nn.Module()
    for name, part in parts.items():
        *owners, last = name.split(".")
        place = root
        for owner in owners:
            if owner not in place._modules:
                place.add_module(owner, nn.Module())
            place = place.get_submodule(owner)
        if isinstance(part, nn.Module):
            place.add_module(last, part)
        elif isinstance(part, nn.Parameter):
            place.register_parameter(last, part)
        else:
            place.register_buffer(last, part)
    return root
