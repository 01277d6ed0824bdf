"""Sums, means and extremes over axes; these come as an attribute or, from opset 13 or 18 on, as an input."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.values import Ints, Numbers, Value, tensor_of


def _reduce(
    x: Tensor, over: Ints | None, named: Ints | None, keep: int, skip: int, compute: Callable[..., Tensor]
) -> Tensor:
    axes = named if over is None else over
    if not axes and skip:
        return x
    dims = [axis % x.ndim for axis in axes] if axes else list(range(x.ndim))
    return compute(x, dims, bool(keep)) if dims else compute(x.reshape(1), [0], False)


def _plain(x: Any) -> bool:
    """Whether it is a vector of numbers, whose only axis is the one to reduce."""
    return isinstance(x, Numbers) and x.rank == 1 and bool(x.values)


def _single(x: Numbers, value: Any, keep: int) -> Numbers:
    return Numbers((value,), 1 if keep else 0, x.dtype)


@operator("ReduceSum")
def reduce_sum(
    x: Value,
    over: Ints | None = None,
    *,
    axes: Ints | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Value:
    if isinstance(x, Numbers) and _plain(x) and not noop_with_empty_axes:
        return _single(x, sum(x.values), keepdims)
    return _reduce(tensor_of(x), over, axes, keepdims, noop_with_empty_axes, _sum)


def _sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return torch.sum(x, dims, keepdim=keep, dtype=x.dtype)


@operator("ReduceMean")
def reduce_mean(
    x: Tensor,
    over: Ints | None = None,
    *,
    axes: Ints | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    return _reduce(x, over, axes, keepdims, noop_with_empty_axes, _mean)


def _mean(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, dims, keepdim=keep)
    return torch.mean(x.double(), dims, keepdim=keep).to(x.dtype)


@operator("ReduceMax")
def reduce_max(
    x: Value,
    over: Ints | None = None,
    *,
    axes: Ints | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Value:
    if isinstance(x, Numbers) and _plain(x) and not noop_with_empty_axes:
        return _single(x, _extreme(x.values, torch.sym_max), keepdims)
    return _reduce(tensor_of(x), over, axes, keepdims, noop_with_empty_axes, _largest)


@operator("ReduceMin")
def reduce_min(
    x: Value,
    over: Ints | None = None,
    *,
    axes: Ints | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Value:
    if isinstance(x, Numbers) and _plain(x) and not noop_with_empty_axes:
        return _single(x, _extreme(x.values, torch.sym_min), keepdims)
    return _reduce(tensor_of(x), over, axes, keepdims, noop_with_empty_axes, _smallest)


def _extreme(values: tuple[Any, ...], compute: Callable[[Any, Any], Any]) -> Any:
    found = values[0]
    for value in values[1:]:
        found = compute(found, value)
    return found


def _largest(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if any(x.shape[dim] == 0 for dim in dims):
        return x.new_full(_left(x, dims, keep), _end(x.dtype, -1))
    return torch.amax(x, dims, keepdim=keep)


def _smallest(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if any(x.shape[dim] == 0 for dim in dims):
        return x.new_full(_left(x, dims, keep), _end(x.dtype, 1))
    return torch.amin(x, dims, keepdim=keep)


def _left(x: Tensor, dims: list[int], keep: bool) -> list[int]:
    return [1 if dim in dims else size for dim, size in enumerate(x.shape) if keep or dim not in dims]


def _end(dtype: torch.dtype, sign: int) -> Any:
    """The neutral element of an extreme: infinity, or the type's end."""
    if dtype.is_floating_point:
        return sign * math.inf
    if dtype == torch.bool:
        return sign > 0
    return torch.iinfo(dtype).max if sign > 0 else torch.iinfo(dtype).min


@operator("ReduceProd")
def reduce_prod(
    x: Value,
    over: Ints | None = None,
    *,
    axes: Ints | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Value:
    if isinstance(x, Numbers) and _plain(x) and not noop_with_empty_axes:
        return _single(x, math.prod(x.values), keepdims)
    return _reduce(tensor_of(x), over, axes, keepdims, noop_with_empty_axes, _product)


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = torch.prod(x, dim, keepdim=keep, dtype=x.dtype)
    return x


@operator("ReduceL1")
def reduce_l1(
    x: Tensor,
    over: Ints | None = None,
    *,
    axes: Ints | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    return _reduce(x.abs(), over, axes, keepdims, noop_with_empty_axes, _sum)


@operator("ReduceL2")
def reduce_l2(
    x: Tensor,
    over: Ints | None = None,
    *,
    axes: Ints | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    if not x.is_floating_point():
        found = _reduce(x.double(), over, axes, keepdims, noop_with_empty_axes, _l2)
        return found.to(x.dtype)
    return _reduce(x, over, axes, keepdims, noop_with_empty_axes, _l2)


def _l2(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x, 2, dims, keepdim=keep)
    return found


@operator("ReduceSumSquare")
def reduce_sum_square(
    x: Tensor,
    over: Ints | None = None,
    *,
    axes: Ints | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    return _reduce(x * x, over, axes, keepdims, noop_with_empty_axes, _sum)


@operator("ReduceLogSum")
def reduce_log_sum(
    x: Tensor,
    over: Ints | None = None,
    *,
    axes: Ints | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    return _reduce(x, over, axes, keepdims, noop_with_empty_axes, _sum).log()


@operator("ReduceLogSumExp")
def reduce_log_sum_exp(
    x: Tensor,
    over: Ints | None = None,
    *,
    axes: Ints | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    return _reduce(x, over, axes, keepdims, noop_with_empty_axes, torch.logsumexp)


@operator("ArgMax")
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _place(x, axis, keepdims, select_last_index, torch.argmax)


@operator("ArgMin")
def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _place(x, axis, keepdims, select_last_index, torch.argmin)


def _place(x: Tensor, axis: int, keep: int, last: int, compute: Callable[..., Tensor]) -> Tensor:
    if not last:
        return compute(x, axis, keepdim=bool(keep))
    return x.shape[axis] - 1 - compute(x.flip(axis), axis, keepdim=bool(keep))


@operator("CumSum")
def cum_sum(x: Tensor, axis: Ints, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _running(x, axis[0], exclusive, reverse, 0, torch.cumsum)


@operator("CumProd")
def cum_prod(x: Tensor, axis: Ints, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    return _running(x, axis[0], exclusive, reverse, 1, torch.cumprod)


def _running(
    x: Tensor, dim: int, exclusive: int, reverse: int, neutral: int, compute: Callable[..., Tensor]
) -> Tensor:
    if reverse:
        x = x.flip(dim)
    found = compute(x, dim, dtype=x.dtype)
    if exclusive:
        start = torch.full_like(x.narrow(dim, 0, 1), neutral)
        found = torch.cat([start, found.narrow(dim, 0, x.shape[dim] - 1)], dim)
    return found.flip(dim) if reverse else found
