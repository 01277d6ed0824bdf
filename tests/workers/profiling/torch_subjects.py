"""Networks that PyTorch's profilers are held to, beside those of `subjects`."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.workers.profiling.subjects import Subject
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.torch.program import TorchModel, export, save_program

WIDE, NARROW, ROWS = 4096, 256, 1024  # of `Wide`: it holds two tensors of ROWS × WIDE at once


class Branching(nn.Module):
    """An LSTM, then one of two layers by the sign of a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = nn.LSTM(32, 64, batch_first=True)
        self.up, self.down = nn.Linear(64, 64), nn.Linear(64, 64)
        self.head = nn.Linear(64, 8)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        last = self.reader(rows)[0][:, -1]
        turned = torch.cond(rows.sum() > 0, lambda x: self.up(x), lambda x: self.down(x).tanh(), (last,))
        return self.head(turned)


class Wide(nn.Module):
    """A layer of many values between two of few."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(NARROW, WIDE), nn.Linear(WIDE, NARROW)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.narrow(torch.relu(self.widen(values)))


class Small(nn.Module):
    """Convolutions with batch norms, a residual, and a head: seconds to compile."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        held = self.stem(images)
        return self.head(torch.relu(held + self.block(held)).mean((2, 3)))


def branching(folder: Path) -> Subject:
    """Inputs in turns take one branch and the other."""
    rows = np.random.default_rng(0).random((1, 12, 32), np.float32)
    return _exported(Branching(), "rows", [rows, -rows], folder)


def wide(folder: Path) -> Subject:
    """See `Wide`."""
    return _exported(Wide(), "values", [np.random.default_rng(0).random((ROWS, NARROW), np.float32)], folder)


def small(folder: Path) -> Subject:
    """See `Small`."""
    images = np.random.default_rng(0).random((2, 1, 3, 32, 32), np.float32)
    return _exported(Small(), "images", list(images), folder)


def _exported(network: nn.Module, name: str, arrays: list[np.ndarray], folder: Path) -> Subject:
    torch.manual_seed(0)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if tensor.min() >= 0 else tensor.uniform_(-0.1, 0.1)
    inputs = ({"name": name, "dtype": "float32", "shape": list(arrays[0].shape)},)
    with torch.no_grad():
        shape = list(network.eval()(torch.from_numpy(arrays[0])).shape)
    outputs = ({"name": "found", "dtype": "float32", "shape": shape},)
    folder.mkdir(parents=True, exist_ok=True)
    save_program(export(TorchModel(network, inputs, outputs)), inputs, outputs, folder / "model.pt2")
    handle = ModelHandle(folder, "model.pt2", "torch-export", tree_digest(folder))
    return Subject(handle, handle, [{name: array} for array in arrays])
