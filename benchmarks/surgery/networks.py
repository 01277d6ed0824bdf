"""Networks for images of 28 by 28 grey values that know nothing yet. The seed makes their first weights."""

import torch
from torch import nn

from tests.accuracy.fashion import Residual

SEED = 0


def residual() -> nn.Module:
    """Three residual blocks of 32, 64 and 128 channels behind a stem that halves the image."""
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        Residual(32, 32, 1), Residual(32, 64, 2), Residual(64, 128, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def plain() -> nn.Module:
    """3×3 convolutions in a row, as in VGG (Simonyan and Zisserman, 2014), with batch norms."""
    torch.manual_seed(SEED)

    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    return nn.Sequential(
        *block(1, 32), nn.MaxPool2d(2),
        *block(32, 64), *block(64, 64), nn.MaxPool2d(2),
        *block(64, 128), *block(128, 128), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
