"""Networks that know nothing yet, for images of 28 by 28 grey values. The seed makes their first weights."""

import torch
from torch import nn

from tests.accuracy.fashion import FashionNet

SEED = 0


def plain() -> nn.Module:
    """Convolutions and linear layers, no batch norm: the parts of a batch do not see one another."""
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def residual() -> nn.Module:
    """Three residual blocks of 16, 32 and 64 channels."""
    torch.manual_seed(SEED)
    return FashionNet()


def narrow() -> nn.Module:
    """Depthwise and pointwise convolutions of few channels, whose ranges differ widely: 8 bits after training cost it much."""
    torch.manual_seed(SEED)

    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False),
            nn.BatchNorm2d(before),
            nn.ReLU6(),
            nn.Conv2d(before, after, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU6(),
        ]

    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        *block(8, 12, 1), *block(12, 16, 2), *block(16, 24, 1), *block(24, 32, 2), *block(32, 32, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
