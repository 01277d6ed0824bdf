"""Padding: what ONNX says of it, in PyTorch's order, and the operator."""

import torch
from torch import Tensor
from torch.nn import functional as nnf

from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.values import Ints, Numbers, Value


def torch_order(pads: Ints) -> list[int]:
    """`(begins…, ends…)`, first dimension first, as `F.pad` takes it: pairs, last dimension first."""
    half = len(pads) // 2
    return [pads[place] for dim in reversed(range(half)) for place in (dim, dim + half)]


def pad_around(x: Tensor, pads: Ints, value: float = 0.0) -> Tensor:
    """Pad the last dimensions; a negative pad cuts off."""
    return nnf.pad(x, torch_order(pads), value=value)


def same_pads(x: Tensor, kernel: Ints, strides: Ints, dilations: Ints, lower: bool) -> Ints:
    """The pads of `auto_pad` SAME: so many that an output is as large as the input over the stride; the odd one is last, or `lower` first."""
    begins, ends = [], []
    for size, k, stride, dilation in zip(x.shape[-len(kernel) :], kernel, strides, dilations, strict=True):
        steps = (size + stride - 1) // stride
        missing = torch.sym_max((steps - 1) * stride + (k - 1) * dilation + 1 - size, 0)  # type: ignore[no-untyped-call]
        less = missing // 2
        begins.append(missing - less if lower else less)
        ends.append(less if lower else missing - less)
    return (*begins, *ends)


def pad_same(x: Tensor, kernel: Ints, strides: Ints, dilations: Ints, lower: bool) -> Tensor:
    """The input with the zeros that `auto_pad` SAME asks for."""
    return pad_around(x, same_pads(x, kernel, strides, dilations, lower))


@operator("Pad")
def pad(
    x: Tensor,
    amounts: Ints | None = None,
    filling: Value | None = None,
    over: Ints | None = None,
    *,
    pads: Ints | None = None,
    mode: str = "constant",
    value: float = 0.0,
) -> Tensor:
    given = amounts if amounts is not None else pads
    assert given is not None
    axes = range(x.ndim) if over is None else [axis % x.ndim for axis in over]
    count = len(given) // 2
    around = [(given[place], given[place + count]) for place in range(count)]
    if mode == "constant":
        full = [(0, 0)] * x.ndim
        for axis, pair in zip(axes, around, strict=True):
            full[axis] = pair
        flat = [amount for pair in reversed(full) for amount in pair]
        fill = (
            value
            if filling is None
            else filling.values[0]
            if isinstance(filling, Numbers)
            else filling.item()
        )
        if x.dtype == torch.bool:
            return nnf.pad(x.to(torch.uint8), flat, value=int(fill)).to(torch.bool)
        return nnf.pad(x, flat, value=fill)
    for axis, (before, after) in zip(axes, around, strict=True):
        x = _cut(x, axis, before, after)
        x = _mirrored(x, axis, max(before, 0), max(after, 0), mode)
    return x


def _cut(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    start, stop = max(-before, 0), max(-after, 0)
    return x.narrow(axis, start, x.shape[axis] - start - stop) if start or stop else x


def _mirrored(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """One dimension longer, by reading its own places: PyTorch's own modes know the last dimensions alone."""
    if not before and not after:
        return x
    size = x.shape[axis]
    places = torch.arange(-before, size + after, device=x.device)
    if mode == "edge":
        places = places.clamp(0, size - 1)
    elif mode == "wrap":
        places = places % size
    else:
        period = max(2 * (size - 1), 1)
        places = places % period
        places = torch.where(places >= size, period - places, places)
    return x.index_select(axis, places)
