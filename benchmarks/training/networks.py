"""Networks that know nothing yet, for images of 28 by 28 grey values. The seed makes their first weights."""

from collections.abc import Sequence

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
    """Twelve blocks, each a depthwise and a pointwise convolution, of 8 to 16 channels, with swish and without batch norms.

    Nothing brings its channels to one size, and swish keeps small negative numbers that count, so one range for a whole tensor
    leaves many of them few levels. First weights: He et al., 2015 (https://arxiv.org/abs/1502.01852).
    """
    torch.manual_seed(SEED)
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, 2, 1), nn.SiLU()]
    before = 8
    for after, stride in ((8, 1), (8, 1), (8, 1), (12, 2), *[(12, 1)] * 3, (16, 2), *[(16, 1)] * 4):
        layers += [nn.Conv2d(before, before, 3, stride, 1, groups=before), nn.SiLU()]
        layers += [nn.Conv2d(before, after, 1), nn.SiLU()]
        before = after
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def uneven() -> nn.Module:
    """Five such blocks of 8 to 32 channels, with ReLU and batch norms, whose scales begin far apart: log-normal, sigma 1.5.

    In networks that trained for days they drift apart (Nagel et al., 2019, figure 2, https://arxiv.org/abs/1906.04721); in the
    minutes that a benchmark has they stay where they begin.
    """
    torch.manual_seed(SEED)
    layers = [*_normalized(1, 8, 3, 2, 1)]
    before = 8
    for after, stride in ((12, 1), (16, 2), (24, 1), (32, 2), (32, 1)):
        layers += [*_normalized(before, before, 3, stride, before), *_normalized(before, after, 1, 1, 1)]
        before = after
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))
    random = torch.Generator().manual_seed(SEED)
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data = torch.exp(1.5 * torch.randn(layer.weight.shape, generator=random))
    return network


def _normalized(before: int, after: int, size: int, stride: int, groups: int) -> Sequence[nn.Module]:
    convolution = nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU()]
