"""Quantization as training sees it: rounded to 8 bits and back, with gradients that pass through as if nothing were rounded.

Sources: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018
(https://arxiv.org/abs/1712.05877), for ranges that follow the batches and batch norms folded into weights; Krishnamoorthi,
Quantizing deep convolutional networks, 2018 (https://arxiv.org/abs/1806.08342), section 3.2, for freezing them late; Esser et
al., Learned Step Size Quantization, 2020 (https://arxiv.org/abs/1902.08153), for ranges that are trained.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Ranges = Literal["moving", "learned", "fixed"]
MOMENTUM = 0.01  # a batch's share in a moving range
LEAST_FACTOR = 1e-6  # of a batch norm: a channel that it switches off must still be divided by something
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Grid:
    """The whole numbers from `low` to `high` that values become; symmetric: their zero is in the middle."""

    low: int
    high: int
    symmetric: bool

    def of(self, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point for ranges, widened to hold 0: as ONNX Runtime's `compute_scale_zp`."""
        kept = least.dtype
        least, most = least.double().clamp(max=0), most.double().clamp(min=0)  # as there: ties of zero points
        if self.symmetric:
            largest = torch.maximum(-least, most)
            scale = largest * 2 / (self.high - self.low)
            zero = torch.full_like(scale, round((self.low + self.high) / 2))
        else:
            scale = (most - least) / (self.high - self.low)
            zero = self.low - least / scale.clamp(min=_TINY)
        scale = torch.where(scale < _TINY, torch.ones_like(scale), scale)
        return scale.to(kept), rounded(zero).clamp(self.low, self.high).to(kept)

    def ends(self, scale: float, zero: int) -> tuple[float, float]:
        """A range of which `of` gives these."""
        if self.symmetric:
            most = scale * (self.high - self.low) / 2
            return -most, most
        return (self.low - zero) * scale, (self.high - zero) * scale


def rounded(x: Tensor) -> Tensor:
    """To nearest, ties to even; the gradient is that of `x`."""
    return x + (torch.round(x) - x).detach() if x.requires_grad else torch.round(x)


class FakeQuantize(nn.Module):
    """An activation in 8 bits, with one range for the whole tensor.

    `moving`: the range follows the batches' extremes, until `frozen`. `learned`: its ends are trained, until `frozen`; gradients
    reach them as those of the scale in Esser et al. do. `fixed`: it stays. `bounds`: what the tensor cannot pass, since a Clip or
    Relu makes it: a runtime leaves that operator out where the range does its work, so the range must not be wider.
    """

    def __init__(
        self,
        grid: Grid,
        least: float,
        most: float,
        ranges: Ranges,
        bounds: tuple[float, float] = (-torch.inf, torch.inf),
    ):
        super().__init__()
        self.grid = grid
        self.ranges = ranges
        self.bounds = bounds
        self.frozen = ranges == "fixed"
        ends = torch.tensor([least, most], dtype=torch.float32)
        if ranges == "learned":
            self.ends: Tensor = nn.Parameter(ends)
        else:
            self.register_buffer("ends", ends)

    def range(self) -> tuple[Tensor, Tensor]:
        """Its ends, within the bounds."""
        least, most = self.ends.clamp(*self.bounds).unbind()
        return least, most

    def forward(self, x: Tensor) -> Tensor:
        """In float32, whatever autocast made of `x`: 8 bits need them."""
        x = x.float()
        if self.training and not self.frozen and self.ranges == "moving":
            self._follow(x.detach())
        scale, zero = self.grid.of(*self.range())
        if self.ranges == "learned" and not self.frozen:
            share = (x.numel() * self.grid.high) ** -0.5
            return _learned(x, _damped(scale, share), _damped(zero, share), self.grid)
        given = scale.detach(), zero.detach().to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x, *given, self.grid.low, self.grid.high)

    def _follow(self, x: Tensor) -> None:
        if x.numel() and bool(torch.isfinite(seen := torch.stack(x.aminmax())).all()):
            self.ends.lerp_(seen, MOMENTUM)


def _damped(x: Tensor, share: float) -> Tensor:
    """Itself, with that share of its gradient."""
    return x * share + (x - x * share).detach()


def _learned(x: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    levels = torch.clamp(rounded(x / scale) + zero, grid.low, grid.high)
    return (levels - zero) * scale


class QuantizedWeight(nn.Module):
    """A constant in 8 bits: its range is its own extremes, one a channel of `axis`, or one of the whole of it."""

    def __init__(self, grid: Grid, axis: int | None):
        super().__init__()
        self.grid = grid
        self.axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        """The same shape, in float32."""
        held = weight.detach()
        others = [one for one in range(held.dim()) if one != self.axis]
        least, most = (held.amin(others), held.amax(others)) if others else (held, held)
        scale, zero = self.grid.of(least, most)
        given = scale, zero.to(torch.int32)
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(weight, *given, self.grid.low, self.grid.high)
        return torch.fake_quantize_per_channel_affine(
            weight, *given, self.axis, self.grid.low, self.grid.high
        )


BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class FoldedWeight(nn.Module):
    """A weight times what the batch norm behind it multiplies each channel by, in 8 bits: what will be stored."""

    def __init__(self, norm: BatchNorm, quantized: QuantizedWeight, axis: int):
        super().__init__()
        self.norm = norm
        self.quantized = quantized
        self.axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        """The same shape."""
        around = [-1 if one == self.axis else 1 for one in range(weight.dim())]
        folded: Tensor = self.quantized(weight * factor(self.norm).reshape(around))
        return folded


class FoldedNorm(nn.Module):
    """The batch norm behind a `FoldedWeight`: takes its factor out again, so that it normalizes what it always did.

    While it trains it normalizes by the batch; in eval mode factor and norm cancel, and what is left is what the folded
    network computes.
    """

    def __init__(self, norm: BatchNorm):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`x`: [n, channels, …], without the `bias` of what made it."""
        around = [1, -1] + [1] * (x.dim() - 2)
        plain = x / factor(self.norm).reshape(around)
        if bias is not None:
            plain = plain + bias.reshape(around)
        found: Tensor = self.norm(plain)
        return found


def factor(norm: BatchNorm) -> Tensor:
    """What it multiplies each channel by, at its running statistics; never quite 0."""
    assert norm.running_var is not None
    found = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    away = torch.where(found < 0, -LEAST_FACTOR, LEAST_FACTOR)
    return torch.where(found.abs() < LEAST_FACTOR, away, found)
