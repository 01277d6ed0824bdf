"""Networks of the kinds that 8 bits are for: images of 8 by 8 pixels to ten logits."""

from collections.abc import Callable

import torch
from torch import nn


def separable(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False), nn.BatchNorm2d(before), nn.ReLU(),
        nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU6(),
    )  # fmt: skip


class Mobile(nn.Module):
    """Depthwise and pointwise convolutions in turn, 8 and 16 channels."""

    def __init__(self, relu: bool = False):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(separable(8, 8, 1), separable(8, 16, 2))
        self.head = nn.Linear(16, 10)
        if relu:
            for part in self.body:
                part[5] = nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.first(images)).mean((2, 3)))


class Residual(nn.Module):
    """Convolutions with biases and batch norms around additions, a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8),
        )  # fmt: skip
        self.head = nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.first(images)
        return self.head(nn.functional.relu(hidden + self.body(hidden)).mean((2, 3)))


class Layers(nn.Module):
    """Matrix products, one of them with a batch norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, 32),
            nn.GELU(),
            nn.Linear(32, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


class Attention(nn.Module):
    """One head over an image's rows; rows without ink are masked with the lowest float."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed, self.norm, self.head = nn.Linear(8, 48), nn.LayerNorm(16), nn.Linear(128, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.reshape(-1, 8, 8)
        query, key, value = self.mixed(rows).chunk(3, -1)
        hidden = torch.where(rows.sum(-1) > 0, 0.0, torch.finfo(torch.float32).min)[:, None]
        shares = torch.softmax(query @ key.transpose(1, 2) / 4 + hidden, -1)
        return self.head(self.norm(shares @ value).flatten(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "mobile": Mobile,
    "layers": Layers,
    "attention": Attention,
}
