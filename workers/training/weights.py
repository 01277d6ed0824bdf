"""A network's state by name: what checkpoints, averages and results hold."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workers.training.group import Group, SingleProcess

WEIGHTS = "trained.safetensors"
TYPES = {  # as safetensors calls them
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.complex64: "C64",
}  # fmt: skip


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


def save_tensors(tensors: Mapping[str, Tensor], path: Path, group: Group) -> None:
    """Write safetensors, one whole tensor after another: no process ever holds all of them. Every process calls it, the main one writes.

    Source: https://github.com/huggingface/safetensors#format
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # so that all lie aligned
    if not group.is_main:
        for name in names:
            group.whole(tensors[name])
        return
    with path.open("wb") as file:
        file.write(_header({name: tensors[name] for name in names}))
        for name in names:
            held = group.whole(tensors[name]).contiguous()
            held.reshape(-1).view(torch.uint8).numpy().tofile(file)


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    places: dict[str, dict[str, Any]] = {}
    end = 0
    for name, tensor in tensors.items():
        first, end = end, end + tensor.numel() * tensor.dtype.itemsize
        dtype = TYPES[tensor.dtype]
        places[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [first, end]}
    text = json.dumps(places, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class Stored(Mapping[str, Tensor]):
    """The tensors of an open file whose names begin with `prefix`, without it: each is read when it is asked for."""

    def __init__(self, file: Any, prefix: str = ""):
        self._file = file
        self._prefix = prefix
        self._names = [name.removeprefix(prefix) for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        found: Tensor = self._file.get_tensor(f"{self._prefix}{name}")
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def below(self, prefix: str) -> "Stored":
        """Those whose names go on with `prefix`."""
        return Stored(self._file, f"{self._prefix}{prefix}")


@contextmanager
def stored(path: Path) -> Iterator[Stored]:
    """What a file of safetensors holds, read onto the CPU."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        yield Stored(file)


def load_trained(network: nn.Module, path: Path) -> None:
    """Put the result of a training into a network that was opened from the same program."""
    with stored(path) as held:
        fill(network, held, SingleProcess())
