"""Small networks that plain PyTorch trains in seconds, and real labelled data for them: what training passes are tried on.

Of each kind one: with batch norms (`Small`), without (`Mlp`), of attention (`Reader`).
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from workers.torch.program import TorchModel, export, save_program

CLASSES = 10
PLACES, GREYS = 16, 17  # of scikit-learn's digits as text: 4 by 4 squares of 4 pixels, of 0 to 16 each
HELD_DIGITS = 360  # of 1,797


@dataclass(frozen=True)
class Labelled:
    """Samples by input, and their classes (int64)."""

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray

    @property
    def count(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "Labelled":
        return Labelled({name: values[:count] for name, values in self.inputs.items()}, self.labels[:count])

    def save(self, path: Path, *, labels: bool = True) -> Path:
        """Write an `.npz` as a user uploads it; without labels where none are wanted."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **self.inputs, **({"labels": self.labels} if labels else {}))
        return path


@dataclass(frozen=True)
class Parted:
    """Data to train with, and data that no training sees."""

    train: Labelled
    held: Labelled


@cache
def digits() -> Parted:
    """scikit-learn's digits: `images` [n, 1, 8, 8] from 0 to 1."""
    images, labels = _shuffled()
    return _parted({"images": (images / 16.0).astype(np.float32)[:, None]}, labels, HELD_DIGITS)


@cache
def read_digits() -> Parted:
    """The same as text: `tokens` [n, 16], the grey of a square of 2 by 2 pixels each, row by row (int64, 0 to 16)."""
    images, labels = _shuffled()
    squares = images.reshape(-1, 4, 2, 4, 2).mean((2, 4)).round().astype(np.int64)
    return _parted({"tokens": squares.reshape(-1, PLACES)}, labels, HELD_DIGITS)


class Mlp(nn.Module):
    """Images of `side` pixels to logits, by one hidden layer: nothing that knows of other samples, as batch norms do."""

    def __init__(self, side: int = 8, hidden: int = 32):
        super().__init__()
        self.hidden = nn.Linear(side * side, hidden)
        self.head = nn.Linear(hidden, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.relu(self.hidden(images.flatten(1))))


class Small(nn.Module):
    """Images to logits: convolutions with batch norms, the mean of each channel, a linear layer."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.features = nn.Sequential(
            _convolution(1, width, 3, 1),
            _convolution(width, width, 3, 2),
            _convolution(width, 2 * width, 3, 2),
        )
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images).mean((2, 3)))


class Reader(nn.Module):
    """Tokens [n, 16] to logits: an embedding, one layer of attention and its feed-forward part, a linear layer over all places."""

    def __init__(self, width: int = 32, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.words = nn.Embedding(GREYS, width)
        self.places = nn.Parameter(torch.randn(PLACES, width) / 4)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(PLACES * width, CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        values = self.words(tokens) + self.places
        values = values + self._attended(self.before(values))
        values = values + self.narrow(nn.functional.gelu(self.wide(self.between(values))))
        return self.head(values.flatten(1))

    def _attended(self, values: torch.Tensor) -> torch.Tensor:
        batch, places, width = values.shape
        parts = self.mixed(values).reshape(batch, places, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = (query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5).softmax(-1)
        return self.joined((scores @ value).transpose(1, 2).reshape(batch, places, width))


def fit(
    network: nn.Module,
    data: Labelled,
    *,
    epochs: int,
    rate: float = 5e-3,
    batch: int = 64,
    decay: float = 1e-2,
    seed: int = 0,
) -> nn.Module:
    """Train with AdamW and one cycle of the learning rate, in place; the network in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.from_numpy(values) for values in data.inputs.values()]
    labels = torch.from_numpy(data.labels)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=decay)
    steps = data.count // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=epochs * steps)
    network.train()
    for _ in range(epochs):
        order = torch.randperm(data.count, generator=generator)[: steps * batch]
        for rows in order.split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(*(one[rows] for one in inputs)), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def accuracy(network: nn.Module, data: Labelled) -> float:
    """The share of samples that the network names, in evaluation mode."""
    inputs = [torch.from_numpy(values) for values in data.inputs.values()]
    network.eval()
    with torch.inference_mode():
        parts = zip(*(one.split(1000) for one in inputs), strict=True)
        named = torch.cat([network(*part).argmax(1) for part in parts])
    return float((named.numpy() == data.labels).mean())


def trained(kind: str) -> nn.Module:
    """A network of `TRAINED`, trained once a process: a copy of it."""
    return copy.deepcopy(_trained(kind))


def untrained(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network with the weights that a seed gives it, in evaluation mode."""
    torch.manual_seed(seed)
    return make().eval()


def write_program(network: nn.Module, data: Labelled, path: Path) -> Path:
    """A network as a `.pt2` with a free batch, its inputs named as the data's, its output `logits`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs = tuple(_entry(name, values.dtype.name, values.shape[1:]) for name, values in data.inputs.items())
    outputs = (_entry("logits", "float32", (CLASSES,)),)
    save_program(export(TorchModel(network.eval(), inputs, outputs)), inputs, outputs, path)
    return path


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: on what, and how long."""

    make: Callable[[], nn.Module]
    data: Callable[[], Parted]
    epochs: int


TRAINED = {
    "mlp": Recipe(Mlp, digits, 20),
    "reader": Recipe(Reader, read_digits, 30),
}


@cache
def _trained(kind: str) -> nn.Module:
    recipe = TRAINED[kind]
    network = untrained(recipe.make)
    data = recipe.data().train
    return fit(network, data, epochs=recipe.epochs)


def _convolution(before: int, after: int, size: int, stride: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


def _shuffled() -> tuple[np.ndarray, np.ndarray]:
    held = load_digits()
    order = np.random.default_rng(0).permutation(len(held.images))
    return held.images[order], held.target[order].astype(np.int64)


def _parted(inputs: dict[str, np.ndarray], labels: np.ndarray, held: int) -> Parted:
    parts = (slice(None, -held), slice(-held, None))
    train, rest = (
        Labelled({name: values[part] for name, values in inputs.items()}, labels[part]) for part in parts
    )
    return Parted(train, rest)


def _entry(name: str, dtype: str, shape: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": ["batch", *shape]}
