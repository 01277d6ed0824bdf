"""Convolutions whose weights are computed; the others are layers (`layers.py`)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as nnf

from workers.onnx_to_torch.padding import pad_around, pad_same
from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.values import Ints

CONVOLUTIONS = {1: nnf.conv1d, 2: nnf.conv2d, 3: nnf.conv3d}
_TRANSPOSED = {1: nnf.conv_transpose1d, 2: nnf.conv_transpose2d, 3: nnf.conv_transpose3d}


@dataclass(frozen=True)
class Window:
    """How a kernel goes over its input."""

    kernel: Ints
    strides: Ints
    dilations: Ints
    pads: Ints
    auto_pad: str

    @property
    def same(self) -> bool:
        """Whether the pads depend on the input's size."""
        return self.auto_pad in ("SAME_UPPER", "SAME_LOWER")

    @property
    def lower(self) -> bool:
        return self.auto_pad == "SAME_LOWER"

    @property
    def even(self) -> Ints | None:
        """The pads of each dimension where both of its ends have the same; else None."""
        half = len(self.kernel)
        return self.pads[:half] if not self.same and self.pads[:half] == self.pads[half:] else None


def window(
    kernel: Ints,
    strides: Ints | None = None,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    auto_pad: str = "NOTSET",
) -> Window:
    """With ONNX's defaults."""
    ones = (1,) * len(kernel)
    found = pads if pads and auto_pad == "NOTSET" else (0,) * (2 * len(kernel))
    return Window(tuple(kernel), strides or ones, dilations or ones, tuple(found), auto_pad)


def padded(x: Tensor, over: Window) -> Tensor:
    """The input with its zeros around."""
    if over.same:
        return pad_same(x, over.kernel, over.strides, over.dilations, over.lower)
    return pad_around(x, over.pads) if any(over.pads) else x


@operator("Conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    over = window(tuple(weight.shape[2:]), strides, dilations, pads, auto_pad)
    return convolved(x, weight, bias, over, group)


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None, over: Window, group: int) -> Tensor:
    """A convolution with a window's pads, whatever they are."""
    compute = CONVOLUTIONS[len(over.kernel)]
    if over.even is not None:
        return compute(x, weight, bias, over.strides, over.even, over.dilations, group)
    return compute(padded(x, over), weight, bias, over.strides, 0, over.dilations, group)


@operator("ConvTranspose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    over = window(tuple(weight.shape[2:]), strides, dilations, pads, auto_pad)
    compute = _TRANSPOSED[len(over.kernel)]
    found = compute(x, weight, bias, over.strides, 0, output_padding or 0, group, over.dilations)
    return cropped(found, x, over, output_shape)


def cropped(found: Tensor, x: Tensor, over: Window, wanted: Ints | None) -> Tensor:
    """A transposed convolution without pads, cut to what the pads or the wanted shape leave of it."""
    rank = len(over.kernel)
    if wanted is None and over.same:
        wanted = tuple(size * stride for size, stride in zip(x.shape[-rank:], over.strides, strict=True))
    if wanted is None:
        return cut(found, over.pads[:rank], over.pads[rank:])
    surplus = [have - size for have, size in zip(found.shape[-rank:], wanted[-rank:], strict=True)]
    less = tuple(amount // 2 for amount in surplus)
    more = tuple(amount - half for amount, half in zip(surplus, less, strict=True))
    return cut(found, less, more) if over.auto_pad == "SAME_UPPER" else cut(found, more, less)


def cut(x: Tensor, begins: Ints, ends: Ints) -> Tensor:
    """Cut so much off each of the last dimensions; less than nothing adds zeros."""
    if not any((*begins, *ends)):
        return x
    return pad_around(x, tuple(-amount for amount in (*begins, *ends)))


@operator("CausalConvWithState", several=True)
def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    past: Tensor | None = None,
    *,
    activation: str = "none",
) -> tuple[Tensor, Tensor]:
    """Each channel by its own kernel over what came before; returns the last steps too, for the next call."""
    before = weight.shape[-1] - 1
    start = x.new_zeros(*x.shape[:-1], before) if past is None else past
    longer = torch.cat([start, x], -1)
    found = nnf.conv1d(longer, weight, bias, groups=x.shape[1])
    if activation in ("silu", "swish"):
        found = nnf.silu(found)
    return found, longer[..., longer.shape[-1] - before :]
