"""A convolution as a depthwise and a pointwise one, as near to it as they come.

The filters that read one input channel, as a matrix [outputs, places of the kernel], have as their best factors of rank M the first
M singular vectors: M depthwise filters, and how each output mixes them (Guo et al., 2018, https://arxiv.org/abs/1808.05517).
On data the mixing is fitted anew, by least squares on what the layer gives (He et al., 2017, section 3.1,
https://arxiv.org/abs/1707.06168).
"""

from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from workers.surgery.observing import channels_last

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
RIDGE = 1e-6  # of the features' mean power: what data say little of stays as it was
CONSTANT = 1e-9  # outputs whose variance is less of their power than this have none


@dataclass
class Separable:
    """What takes a convolution's place; `error` is the relative root mean square of what is lost."""

    depthwise: Convolution
    pointwise: Convolution
    error: float

    @property
    def weights(self) -> int:
        """Weights without biases, which cost an operation each at every place."""
        return self.depthwise.weight.numel() + self.pointwise.weight.numel()


def factors(layer: Convolution, multiplier: int) -> Separable:
    """The best factors of the weights; `multiplier` filters for each input channel, or as many as hold all of them."""
    groups, outputs, inputs = layer.groups, layer.out_channels, layer.weight.shape[1]
    places = prod(layer.kernel_size)
    filters = (
        layer.weight.detach().double().reshape(groups, outputs // groups, inputs, places).transpose(1, 2)
    )
    rank = min(multiplier, outputs // groups, places)
    left, values, right = torch.linalg.svd(filters, full_matrices=False)  # [groups, inputs, outputs, places]
    lost = float(values[..., rank:].square().sum() / values.square().sum().clamp_min(1e-300))
    scale = values[..., :rank].sqrt()
    sign = _signs(right[..., :rank, :])
    kernels = right[..., :rank, :] * (scale * sign)[..., None]  # [groups, inputs, rank, places]
    mixing = left[..., :rank] * (scale * sign)[..., None, :]  # [groups, inputs, outputs, rank]
    made = Separable(_depthwise(layer, rank), _pointwise(layer, rank), sqrt(lost))
    with torch.no_grad():
        made.depthwise.weight.copy_(kernels.reshape(made.depthwise.weight.shape))
        made.pointwise.weight.copy_(mixing.permute(0, 2, 1, 3).reshape(made.pointwise.weight.shape))
        if layer.bias is not None:
            assert made.pointwise.bias is not None
            made.pointwise.bias.copy_(layer.bias)
    return made


def _signs(kernels: Tensor) -> Tensor:
    """A vector and its negative are as good: the sign makes the largest place positive."""
    largest = kernels.abs().argmax(-1, keepdim=True)
    return torch.where(kernels.gather(-1, largest) < 0, -1.0, 1.0).squeeze(-1).to(kernels.dtype)


def _depthwise(layer: Convolution, rank: int) -> Convolution:
    kind: Any = type(layer)
    made: Convolution = kind(
        layer.in_channels, layer.in_channels * rank, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        groups=layer.in_channels, bias=False, padding_mode=layer.padding_mode,
    )  # fmt: skip
    return made.to(layer.weight.dtype)


def _pointwise(layer: Convolution, rank: int) -> Convolution:
    kind: Any = type(layer)
    made: Convolution = kind(
        layer.in_channels * rank, layer.out_channels, 1, groups=layer.groups, bias=layer.bias is not None
    )
    return made.to(layer.weight.dtype)


class Mixing:
    """Least squares: what pointwise weights (and a bias, where the layer has one) come nearest to the layer's outputs."""

    def __init__(self, layer: Convolution, made: Separable):
        self._layer, self._made = layer, made
        groups = layer.groups
        self._inputs = made.depthwise.out_channels // groups
        self._outputs = layer.out_channels // groups
        size = self._inputs + 1  # a one behind each row
        self._features = torch.zeros(groups, size, size, dtype=torch.float64)
        self._both = torch.zeros(groups, size, self._outputs, dtype=torch.float64)
        self._power = torch.zeros(groups, dtype=torch.float64)
        self._count = 0

    def __call__(self, taken: Tensor, given: Tensor) -> None:
        """Add a call of the layer."""
        features = channels_last(self._made.depthwise(taken), self._layer)
        outputs = channels_last(given, self._layer)
        self._count += len(outputs)
        ones = features.new_ones(len(features), 1)
        for group in range(self._layer.groups):
            rows = torch.cat([features[:, group * self._inputs : (group + 1) * self._inputs], ones], 1)
            wanted = outputs[:, group * self._outputs : (group + 1) * self._outputs]
            self._features[group] += rows.T @ rows
            self._both[group] += rows.T @ wanted
            self._power[group] += wanted.square().sum()

    @torch.no_grad()
    def settle(self) -> None:
        """Put the fitted weights into the pointwise convolution, and the error on the data into `error`."""
        bias = self._made.pointwise.bias
        size = self._inputs + (bias is not None)
        features, both = self._features[:, :size, :size], self._both[:, :size]
        mean = features.diagonal(dim1=1, dim2=2).mean(1)
        ridge = torch.eye(size, dtype=torch.float64) * (RIDGE * mean.clamp_min(1e-12))[:, None, None]
        fitted = torch.linalg.solve(
            features + ridge, both + ridge @ self._start(size)
        )  # [groups, inputs (and one), outputs]
        weights = fitted[:, : self._inputs].transpose(1, 2)
        self._made.pointwise.weight.copy_(weights.reshape(self._made.pointwise.weight.shape))
        if bias is not None:
            bias.copy_(fitted[:, -1].flatten())
        left = self._power - 2 * (fitted * both).sum((1, 2)) + (fitted * (features @ fitted)).sum((1, 2))
        power, spread = float(self._power.sum()), self._spread()
        measure = spread if spread > CONSTANT * power else power
        self._made.error = sqrt(max(0.0, float(left.sum())) / measure) if measure > 0 else 0.0

    def _start(self, size: int) -> Tensor:
        """The mixing as it was, which stays where the data say nothing: [groups, inputs (and one), outputs]."""
        groups = self._layer.groups
        pointwise = self._made.pointwise
        weights = pointwise.weight.double().reshape(groups, self._outputs, self._inputs).transpose(1, 2)
        if size == self._inputs:
            return weights
        assert pointwise.bias is not None
        return torch.cat([weights, pointwise.bias.double().reshape(groups, 1, self._outputs)], 1)

    def _spread(self) -> float:
        """The outputs' variance, summed over places: an error of 1 is that of the mean alone."""
        sums = self._both[:, -1]
        return float(self._power.sum() - sums.square().sum() / max(self._count, 1))
