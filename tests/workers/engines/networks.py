"""Small real networks, and samples for them, that passes and runtimes are tried on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits

from workers.context import Feeds
from workers.model_handle import ModelHandle
from workers.onnx_files import save_onnx


class ArraySamples:
    """Samples from arrays in memory: what `workers.samples` gives from files."""

    synthetic = False

    def __init__(self, arrays: Feeds, labels: np.ndarray | None = None):
        self._arrays = arrays
        self._labels = labels
        self.digest = "0" * 64
        self.count = len(next(iter(arrays.values())))
        self.inputs = {name: (str(array.dtype), array.shape[1:]) for name, array in arrays.items()}

    def batches(self, size: int, limit: int | None = None) -> Iterator[tuple[Feeds, np.ndarray | None]]:
        count = min(self.count, limit or self.count)
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            labels = None if self._labels is None else self._labels[part]
            yield {name: array[part] for name, array in self._arrays.items()}, labels


@dataclass(frozen=True)
class Network:
    """A trained classifier of 8 by 8 digits: its model, training samples, and test images with labels."""

    model: ModelHandle
    train: ArraySamples
    images: np.ndarray
    labels: np.ndarray


class Cnn(torch.nn.Module):
    """Three convolutions, one of them depthwise, batch norms, a residual addition, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
        )
        self.depthwise = torch.nn.Sequential(
            torch.nn.Conv2d(16, 16, 3, padding=1, groups=16), torch.nn.BatchNorm2d(16), torch.nn.ReLU()
        )
        self.last = torch.nn.Sequential(
            torch.nn.Conv2d(16, 32, 3, stride=2, padding=1), torch.nn.BatchNorm2d(32), torch.nn.ReLU()
        )
        self.head = torch.nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.first(images)
        hidden = self.last(hidden + self.depthwise(hidden))
        return self.head(hidden.mean(dim=(2, 3)))


class Mlp(torch.nn.Module):
    """Linear layers over an image's rows, a layer norm, a linear head: MatMul and Gemm, no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(8, 64),
            torch.nn.LayerNorm(64),
            torch.nn.GELU(),
            torch.nn.Linear(64, 64),
            torch.nn.GELU(),
        )
        self.head = torch.nn.Linear(8 * 64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(images.reshape(-1, 8, 8)).flatten(1))


def trained(network: torch.nn.Module, folder: Path, epochs: int = 15) -> Network:
    """Train on scikit-learn's digits (1,797 real ones, a fifth held back) and export with a free batch."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # small layers: more threads only wait for one another
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    held, used = order[:360], order[360:]
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    data, target = torch.from_numpy(images[used]), torch.from_numpy(labels[used])
    for _ in range(epochs):
        for part in torch.randperm(len(data)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(data[part]), target[part]).backward()
            optimizer.step()
    network.eval()
    program = torch.onnx.export(
        network,
        (data[:2],),
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    model = save_onnx(program.model_proto, folder)
    return Network(model, ArraySamples({"images": images[used]}, labels[used]), images[held], labels[held])


def file_model(path: Path, folder: Path) -> ModelHandle:
    """A model file as a handle of its own."""
    return save_onnx(onnx.load(str(path)), folder)
