"""Pooling."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from workers.onnx_to_torch.convolution import Window, window
from workers.onnx_to_torch.padding import pad_around, same_pads, torch_order
from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.values import Ints

_MAX = {1: nnf.max_pool1d, 2: nnf.max_pool2d, 3: nnf.max_pool3d}
_MEAN = {1: nnf.avg_pool1d, 2: nnf.avg_pool2d, 3: nnf.avg_pool3d}


def _placed(x: Tensor, over: Window, ceil: bool) -> tuple[list[int], list[int]]:
    """The pads, and how much more is read at the ends so that a last, incomplete window counts (`ceil_mode`).

    A window that would start beyond the input and its first pad does not count.
    """
    rank = len(over.kernel)
    pads = same_pads(x, over.kernel, over.strides, over.dilations, over.lower) if over.same else over.pads
    extra = []
    for place, size in enumerate(x.shape[-rank:]):
        begin, end = pads[place], pads[place + rank]
        span = (over.kernel[place] - 1) * over.dilations[place] + 1
        stride = over.strides[place]
        room = size + begin + end - span
        more = 0
        if ceil and not over.same:
            steps = -(-room // stride)
            if steps * stride >= size + begin:
                steps -= 1
            more = torch.sym_max(steps * stride - room, 0)  # type: ignore[no-untyped-call]
        extra.append(more)
    return list(pads), extra


@operator("MaxPool", several=True)
def max_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | None = None,
    outputs: int,
) -> tuple[Tensor, ...]:
    over = window(kernel_shape, strides, dilations, pads, auto_pad)
    if outputs == 1 and not ceil_mode and over.even and _fits(over):
        found = _MAX[len(over.kernel)](x, over.kernel, over.strides, over.even, over.dilations)
        return (found,)
    begins_ends, extra = _placed(x, over, bool(ceil_mode))
    rank = len(over.kernel)
    ends = [end + more for end, more in zip(begins_ends[rank:], extra, strict=True)]
    wide = _surrounded(x, (*begins_ends[:rank], *ends))
    if outputs == 1:
        return (_whole(_MAX[rank](_float(wide), over.kernel, over.strides, 0, over.dilations), x),)
    found, places = _MAX[rank](
        _float(wide), over.kernel, over.strides, 0, over.dilations, return_indices=True
    )
    where = _places(places, x.shape, wide.shape[2:], begins_ends[:rank], storage_order)
    return _whole(found, x), where


def _fits(over: Window) -> bool:
    """PyTorch pads by half a kernel at most."""
    assert over.even is not None
    return all(pad <= k // 2 for pad, k in zip(over.even, over.kernel, strict=True))


def _float(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.double()


def _whole(found: Tensor, x: Tensor) -> Tensor:
    return found.to(x.dtype)


def _surrounded(x: Tensor, pads: Ints) -> Tensor:
    """With the least value around."""
    if not any(pads):
        return x
    least = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    return pad_around(x, pads, least)


def _places(places: Tensor, shape: Any, wide: Any, begins: list[int], by_columns: int) -> Tensor:
    """Indices into the padded planes as indices into the whole input; `by_columns` with the dimensions in reverse order."""
    coordinates: list[Tensor] = []
    for size, begin in zip(reversed(wide), reversed(begins), strict=True):
        coordinates.insert(0, places % size - begin)
        places = places // size
    spatial = list(shape[2:])
    order = list(range(len(spatial)))
    flat = torch.zeros_like(places)
    for dim in reversed(order) if by_columns else order:
        flat = flat * spatial[dim] + coordinates[dim]
    planes = torch.arange(shape[0] * shape[1], device=places.device)
    around = [shape[0], shape[1]] + [1] * len(spatial)
    plane: int = math.prod(spatial)
    return flat + planes.reshape(around) * plane


@operator("AveragePool")
def average_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    over = window(kernel_shape, strides, dilations, pads, auto_pad)
    plain = all(dilation == 1 for dilation in over.dilations)
    if plain and over.even and not ceil_mode and _fits(over):
        return _MEAN[len(over.kernel)](
            x, over.kernel, over.strides, over.even, False, bool(count_include_pad)
        )
    return _sums(x, over, ceil_mode) / _counted(x, over, ceil_mode, bool(count_include_pad))


def _sums(x: Tensor, over: Window, ceil_mode: int, *, from_pads: bool = False) -> Tensor:
    """The sum of each window: a convolution of each channel with ones."""
    rank = len(over.kernel)
    pads, extra = _placed(x, over, bool(ceil_mode))
    if from_pads:
        x = pad_around(x, tuple(pads), 1.0)
        pads = [0] * len(pads)
    ends = [end + more for end, more in zip(pads[rank:], extra, strict=True)]
    wide = pad_around(x, (*pads[:rank], *ends)) if any((*pads[:rank], *ends)) else x
    planes = wide.reshape(-1, 1, *wide.shape[2:])
    ones = x.new_ones(1, 1, *over.kernel)
    compute = {1: nnf.conv1d, 2: nnf.conv2d, 3: nnf.conv3d}[rank]
    found = compute(planes, ones, None, over.strides, 0, over.dilations)
    return found.reshape(*x.shape[:2], *found.shape[2:])


def _counted(x: Tensor, over: Window, ceil_mode: int, with_pads: bool) -> Tensor:
    """How many elements each window holds; what lies beyond the pads never counts."""
    return _sums(torch.ones_like(x[:1, :1]), over, ceil_mode, from_pads=with_pads)


@operator("LpPool")
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    p: int = 2,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    over = window(kernel_shape, strides, dilations, pads, auto_pad)
    return _sums(x.abs() ** p, over, ceil_mode) ** (1 / p)


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x, p, tuple(range(2, x.ndim)), keepdim=True)
    return found


@operator("MaxUnpool")
def max_unpool(
    x: Tensor,
    places: Tensor,
    wanted: Ints | None = None,
    *,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Indices count in the whole of the smallest output; the wanted shape may be larger."""
    over = window(kernel_shape, strides, None, pads)
    rank = len(over.kernel)
    spatial = [
        (size - 1) * over.strides[i] - over.pads[i] - over.pads[i + rank] + over.kernel[i]
        for i, size in enumerate(x.shape[2:])
    ]
    shape = [*x.shape[:2], *spatial]
    flat = x.new_zeros(math.prod(shape)).scatter(0, places.reshape(-1), x.reshape(-1))
    found = flat.reshape(shape)
    if wanted is None:
        return found
    grown = [0] * rank + [want - have for want, have in zip(wanted[2:], spatial, strict=True)]
    return nnf.pad(found, torch_order(tuple(grown)))
