"""A small residual network for Fashion-MNIST, trained here once.

The data: Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017 (https://arxiv.org/abs/1708.07747), MIT licence.
"""

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.accuracy.images import Split, load
from tests.accuracy.sources import FASHION, cache, fetched, place

SEED = 5
MEAN, DEVIATION = 0.2860, 0.3530  # of the training images
WIDTHS = (16, 32, 64)
EPOCHS, BATCH, RATE = 6, 128, 4e-3


class Residual(nn.Module):
    """Two 3×3 convolutions around an addition; with a stride, or of another width, the input passes a 1×1 convolution (He et al., 2015)."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        same = stride == 1 and before == after
        self.side = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.relu(self.side(x) + self.body(x))


class FashionNet(nn.Module):
    """Images [n, 1, 28, 28] to logits [n, 10]: a stem, three residual blocks, the mean of each channel, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.features = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            Residual(first, first, 1),
            Residual(first, second, 2),
            Residual(second, third, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(third, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(image))


def data() -> Split:
    """The images, normalized.

    Raises:
        NotFetched: they are not to be had here.
    """
    return load(fetched(FASHION), MEAN, DEVIATION)


def trained(split: Split) -> FashionNet:
    """The network in evaluation mode: from the cache, or trained in some minutes. The cache knows it by its data and this file."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + FASHION.digest.encode()).hexdigest()
    kept = cache() / f"fashion-{recipe[:32]}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net = FashionNet()
    if not kept.exists():
        _train(net, split)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = Path(folder) / kept.name
            save_file(net.state_dict(), made)
            place(made, kept)
    net.load_state_dict(load_file(kept))
    return net.eval()


def _train(net: FashionNet, split: Split) -> None:
    random = torch.Generator().manual_seed(SEED)
    images, labels = torch.from_numpy(split.train), torch.from_numpy(split.train_labels)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    net.train()
    for _ in range(EPOCHS):
        order = torch.randperm(len(images), generator=random)
        for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
            batch = images[rows]
            flipped = torch.rand(len(batch), generator=random) < 0.5
            batch[flipped] = batch[flipped].flip(-1)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(batch), labels[rows], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
    torch.set_num_threads(threads)


def accuracy(net: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that the network names."""
    with torch.inference_mode():
        named = torch.cat([net(part).argmax(1) for part in torch.from_numpy(images).split(1000)])
    return float((named.numpy() == labels).mean())
