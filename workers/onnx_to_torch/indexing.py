"""Reading and writing at places that are data."""

from typing import Any

import torch
from torch import Tensor

from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.types import torch_type
from workers.onnx_to_torch.values import Ints, Numbers, Value, device_of, tensor_of


def _wrapped(indices: Tensor, length: int) -> Tensor:
    """Indices that count from the end, from the start."""
    return torch.where(indices < 0, indices + length, indices).to(torch.int64)


@operator("Gather")
def gather(x: Value, indices: Value, *, axis: int = 0) -> Value:
    if isinstance(indices, Numbers):
        if isinstance(x, Numbers):
            return Numbers(tuple(x.values[i] for i in indices.values), indices.rank, x.dtype)
        if indices.rank == 0:
            return x.select(axis, indices.values[0])
    data: Tensor = tensor_of(x, device_of((x, indices)))
    places: Tensor = tensor_of(indices, data.device)
    axis %= data.ndim
    flat = _wrapped(places, data.shape[axis]).reshape(-1)
    found = data.index_select(axis, flat)
    return found.reshape(*data.shape[:axis], *places.shape, *data.shape[axis + 1 :])


def from_the_start(indices: Tensor, rows: int) -> Tensor:
    """For an embedding, which knows no negative indices."""
    return _wrapped(indices, rows)


@operator("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, _wrapped(indices, x.shape[axis]))


@operator("GatherND")
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    return x[_places(x, indices, batch_dims)]


def _places(x: Tensor, indices: Tensor, batch_dims: int) -> tuple[Tensor, ...]:
    """An index tensor for each dimension that the last dimension of `indices` names; those of the batch count up."""
    depth = indices.shape[-1]
    named = [_wrapped(indices[..., i], x.shape[batch_dims + i]) for i in range(depth)]
    outer = []
    for dim in range(batch_dims):
        around = [1] * (indices.ndim - 1)
        around[dim] = -1
        outer.append(torch.arange(x.shape[dim], device=x.device).reshape(around))
    return (*outer, *named)


@operator("ScatterND")
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    places = tuple(_wrapped(indices[..., i], x.shape[i]) for i in range(indices.shape[-1]))
    if reduction in ("none", "add"):
        return x.index_put(places, updates, accumulate=reduction == "add")
    depth = len(places)
    rows = x.new_zeros((), dtype=torch.int64)
    for place, length in zip(places, x.shape[:depth], strict=True):
        rows = rows * length + place
    flat = x.reshape(-1, *x.shape[depth:])
    target = rows.reshape(-1, *[1] * (x.ndim - depth)).expand(-1, *x.shape[depth:])
    source = updates.reshape(-1, *x.shape[depth:])
    return flat.scatter_reduce(0, target, source, _REDUCTIONS[reduction]).reshape(x.shape)


@operator("ScatterElements", "Scatter")
def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    places = _wrapped(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction])


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("TensorScatter")
def tensor_scatter(
    x: Tensor, update: Tensor, write: Tensor | None = None, *, axis: int = -2, mode: str = "linear"
) -> Tensor:
    """Puts `update` into a cache, each sample from its own place on; `circular` goes on at the beginning."""
    axis %= x.ndim
    start = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device) if write is None else write
    places = start[:, None] + torch.arange(update.shape[axis], device=x.device)
    if mode == "circular":
        places = places % x.shape[axis]
    around = [update.shape[0]] + [1] * (x.ndim - 1)
    around[axis] = update.shape[axis]
    return x.scatter(axis, places.reshape(around).expand(update.shape), update)


@operator("Compress")
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    if axis is None:
        x, axis = x.reshape(-1), 0
    return x.index_select(axis, torch.nonzero(condition).reshape(-1))


@operator("NonZero")
def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x).T


@operator("TopK", several=True)
def top_k(
    x: Tensor,
    count: Ints | None = None,
    *,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,
    k: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Of equal values the first ones: a stable sort finds these."""
    number = k if count is None else count[0]
    assert number is not None
    values, places = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, number), places.narrow(axis, 0, number)


@operator("OneHot")
def one_hot(indices: Tensor, depth: Ints, values: Tensor, *, axis: int = -1) -> Tensor:
    """`values` are (off, on). An index outside of the depth has no on."""
    count = int(depth[0])
    places = indices.to(torch.int64)
    places = torch.where(places < 0, places + count, places)
    axis = axis % (indices.ndim + 1)
    around = [1] * (indices.ndim + 1)
    around[axis] = count
    hot = places.unsqueeze(axis) == torch.arange(count, device=indices.device).reshape(around)
    return torch.where(hot, values[1], values[0])


@operator("ReverseSequence")
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """The first `lengths` steps of each sample backwards, the rest as they are."""
    steps = torch.arange(x.shape[time_axis], device=x.device)
    ends = lengths.to(x.device)[:, None]
    places = torch.where(steps < ends, ends - 1 - steps, steps)
    if time_axis < batch_axis:
        places = places.T
    around: list[Any] = [1] * x.ndim
    around[time_axis], around[batch_axis] = x.shape[time_axis], x.shape[batch_axis]
    return torch.gather(x, time_axis, places.reshape(around).expand(x.shape))


@operator("EyeLike")
def eye_like(x: Tensor, *, k: int = 0, dtype: int | None = None) -> Tensor:
    kind = x.dtype if dtype is None else torch_type(dtype)
    rows, columns = x.shape
    down = torch.arange(rows, device=x.device)[:, None]
    return (torch.arange(columns, device=x.device) == down + k).to(kind)


@operator("Unique", several=True)
def unique(
    x: Tensor,
    *,
    axis: int | None = None,
    sorted: int = 1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The values, where each stood first, which one each element is, and how often; unsorted means in that first order."""
    flat = x.reshape(-1) if axis is None else x
    dim = 0 if axis is None else axis
    values, inverse, counts = torch.unique(
        flat, sorted=True, return_inverse=True, return_counts=True, dim=dim
    )
    places = torch.arange(inverse.numel(), device=x.device)
    first = torch.full((counts.numel(),), inverse.numel(), dtype=torch.int64, device=x.device)
    first = first.scatter_reduce(0, inverse.reshape(-1), places, "amin")
    if not sorted:
        order = torch.argsort(first)
        back = torch.argsort(order)
        values, first, counts = values.index_select(dim, order), first[order], counts[order]
        inverse = back[inverse]
    return values, first, inverse.reshape(-1), counts
