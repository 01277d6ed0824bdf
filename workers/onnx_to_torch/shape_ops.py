"""Shapes: reading, computing and changing them."""

import math
from typing import Any

import torch
from torch import Tensor

from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.values import (
    MOST_NUMBERS,
    Ints,
    Numbers,
    Value,
    all_numbers,
    device_of,
    shape_of,
    sizes,
    tensor_of,
)

ENDLESS = 2**29  # exporters write such an end where they mean that of the dimension


@operator("Shape")
def shape(x: Value, *, start: int = 0, end: int | None = None) -> Numbers:
    return Numbers(tuple(shape_of(x)[start:end]))


@operator("Size")
def size(x: Value) -> Numbers:
    return Numbers((math.prod(shape_of(x)),), rank=0)


@operator("Identity")
def identity(x: Value) -> Value:
    return x


@operator("Reshape")
def reshape(x: Value, dims: Ints, *, allowzero: int = 0) -> Value:
    """A zero keeps the dimension at its place, unless `allowzero`; a -1 takes what is left."""
    if isinstance(x, Numbers) and len(dims) <= 1 and all(type(dim) is int for dim in dims):
        return Numbers(x.values, len(dims), x.dtype)
    data: Tensor = tensor_of(x)
    if not allowzero:
        dims = tuple(
            data.shape[place] if type(dim) is int and dim == 0 else dim for place, dim in enumerate(dims)
        )
    return data.reshape(dims)


@operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Two dimensions: all before the axis, and the rest."""
    axis = axis + x.ndim if axis < 0 else axis
    if 1 == axis < x.ndim:
        return x.flatten(1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze")
def squeeze(x: Value, over: Ints | None = None, *, axes: Ints | None = None) -> Value:
    if isinstance(x, Numbers) and len(x.values) == 1:
        return Numbers(x.values, 0, x.dtype)
    dims = axes if over is None else over
    data: Tensor = tensor_of(x)
    return data.squeeze() if dims is None else data.squeeze(tuple(dims))


@operator("Unsqueeze")
def unsqueeze(x: Value, over: Ints | None = None, *, axes: Ints | None = None) -> Value:
    """The axes count in the result."""
    dims = (axes if over is None else over) or ()
    if isinstance(x, Numbers) and x.rank == 0 and len(dims) == 1:
        return Numbers(x.values, 1, x.dtype)
    data: Tensor = tensor_of(x)
    rank = data.ndim + len(dims)
    for dim in sorted(dim % rank for dim in dims):
        data = data.unsqueeze(dim)
    return data


@operator("Transpose")
def transpose(x: Tensor, *, perm: Ints | None = None) -> Tensor:
    return x.permute(perm if perm is not None else tuple(reversed(range(x.ndim))))


@operator("Concat")
def concat(*values: Value, axis: int = 1) -> Value:
    if all_numbers(values):
        joined = tuple(number for value in values for number in sizes(value))
        return Numbers(joined, 1, values[0].dtype)
    device = device_of(values)
    return torch.cat([tensor_of(value, device) for value in values], axis)


@operator("Split", several=True)
def split(
    x: Value,
    lengths: Ints | None = None,
    *,
    axis: int = 0,
    split: Ints | None = None,
    num_outputs: int | None = None,
    outputs: int,
) -> tuple[Value, ...]:
    """Parts of given sizes, or of equal size, the last one smaller."""
    length = shape_of(x)[axis]
    parts = lengths or split
    if parts is None:
        count = num_outputs or outputs
        step = -(-length // count)
        parts = (*[step] * (count - 1), length - step * (count - 1))
    if isinstance(x, Numbers):
        starts = [sum(parts[:place]) for place in range(len(parts))]
        return tuple(
            x.like(x.values[start : start + part]) for start, part in zip(starts, parts, strict=True)
        )
    return torch.split(x, list(parts), axis)


@operator("Slice")
def slice_(
    x: Value,
    first: Ints | None = None,
    last: Ints | None = None,
    over: Ints | None = None,
    steps: Ints | None = None,
    *,
    starts: Ints | None = None,
    ends: Ints | None = None,
    axes: Ints | None = None,
) -> Value:
    begin, end = first if first is not None else starts, last if last is not None else ends
    assert begin is not None
    assert end is not None
    named = over if over is not None else axes
    dims = range(len(begin)) if named is None else named
    by = steps or (1,) * len(begin)
    for start, stop, dim, step in zip(begin, end, dims, by, strict=True):
        x = _sliced(x, start, stop, dim, step)
    return x


def _sliced(x: Value, start: int, stop: int, dim: int, step: int) -> Value:
    if isinstance(x, Numbers):
        return x.like(x.values[_range(start, stop, step)])
    if step > 0:
        dim %= x.ndim
        place: list[Any] = [slice(None)] * x.ndim
        place[dim] = slice(start, None if type(stop) is int and stop >= ENDLESS else stop, step)
        return x[tuple(place)]
    chosen = range(*_range(start, stop, step).indices(x.shape[dim]))
    return x.index_select(dim, torch.tensor(list(chosen), dtype=torch.int64, device=x.device))


def _range(start: int, stop: int, step: int) -> slice:
    """A stop before the beginning, as exporters write it with a negative step, is none."""
    return slice(start, None if step < 0 and type(stop) is int and stop <= -ENDLESS else stop, step)


@operator("Expand")
def expand(x: Value, dims: Ints) -> Value:
    """Both ways: a 1 in `dims` keeps what is there."""
    short = len(dims) == 1 and type(dims[0]) is int and 0 < dims[0] <= MOST_NUMBERS
    if isinstance(x, Numbers) and len(x.values) == 1 and short:
        return Numbers(x.values * dims[0], 1, x.dtype)
    data: Tensor = tensor_of(x)
    missing = len(dims) - data.ndim
    wanted = [1] * -missing + list(dims)
    have = [1] * missing + list(data.shape)
    return data.expand(
        [there if type(dim) is int and dim == 1 else dim for dim, there in zip(wanted, have, strict=True)]
    )


@operator("Tile")
def tile(x: Tensor, repeats: Ints) -> Tensor:
    return x.repeat(*repeats)


@operator("Range")
def range_(start: Value, limit: Value, delta: Value, *, like: Tensor) -> Value:
    first, last, step = (
        value.values[0] if isinstance(value, Numbers) else value.item() for value in (start, limit, delta)
    )
    return torch.arange(first, last, step, dtype=start.dtype, device=like.device)


@operator("ConstantOfShape")
def constant_of_shape(
    dims: Ints, *, value: tuple[Any, torch.dtype] = (0.0, torch.float32), like: Tensor
) -> Value:
    number, dtype = value
    if (
        len(dims) == 1
        and type(dims[0]) is int
        and 0 < dims[0] <= MOST_NUMBERS
        and not dtype.is_floating_point
    ):
        return Numbers((number,) * dims[0], 1, dtype)
    return torch.full(dims, number, dtype=dtype, device=like.device)


@operator("Trilu")
def trilu(x: Tensor, k: Ints | None = None, *, upper: int = 1) -> Tensor:
    diagonal = k[0] if k else 0
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@operator("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    batch, channels, height, width = x.shape
    left = channels // blocksize**2
    if mode == "DCR":
        parts = x.reshape(batch, blocksize, blocksize, left, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(batch, left, blocksize, blocksize, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(batch, left, height * blocksize, width * blocksize)


@operator("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    batch, channels, height, width = x.shape
    down, across = height // blocksize, width // blocksize
    parts = x.reshape(batch, channels, down, blocksize, across, blocksize)
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return parts.permute(order).reshape(batch, channels * blocksize**2, down, across)


@operator("CenterCropPad")
def center_crop_pad(x: Tensor, dims: Ints, *, axes: Ints | None = None) -> Tensor:
    for axis, wanted in zip(axes if axes is not None else range(x.ndim), dims, strict=True):
        have = x.shape[axis]
        if wanted < have:
            x = x.narrow(axis, (have - wanted) // 2, wanted)
        elif wanted > have:
            before = (wanted - have) // 2
            around = [0, 0] * (x.ndim - 1 - axis % x.ndim) + [before, wanted - have - before]
            x = torch.nn.functional.pad(x, around)
    return x
