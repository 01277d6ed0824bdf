"""A network's state by name: what checkpoints, averages and results hold."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from workers.training.group import Group

WEIGHTS = "trained.safetensors"


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and the buffers that are saved, by name; what has several names once. These are the network's own tensors."""
    passing = {
        f"{path}.{name}".lstrip(".")
        for path, module in network.named_modules()
        for name in module._non_persistent_buffers_set
    }
    buffers = {name: one for name, one in network.named_buffers() if name not in passing}
    return {**dict(network.named_parameters()), **buffers}


def fill(network: nn.Module, state: Mapping[str, Tensor], group: Group) -> None:
    """Put whole tensors into a network whose names are the same."""
    own = state_of(network)
    if own.keys() != state.keys():
        other = sorted(own.keys() ^ state.keys())
        raise ValueError(f"weights are of another network: {other[:5]}")
    for name, tensor in own.items():
        group.fill(tensor, state[name])


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write safetensors: each tensor whole, on the CPU, in memory of its own."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors onto the CPU."""
    from safetensors.torch import load_file

    found: dict[str, Tensor] = load_file(path)
    return found


def load_trained(network: nn.Module, path: Path) -> None:
    """Put the result of a training into a network that was opened from the same program."""
    own = state_of(network)
    held = load_tensors(path)
    if own.keys() != held.keys():
        other = sorted(own.keys() ^ held.keys())
        raise ValueError(f"{path.name} is of another network: {other[:5]}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(held[name])
