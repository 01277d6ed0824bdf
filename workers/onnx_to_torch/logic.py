"""Comparisons, truth values, bits, and choosing by them."""

import operator as op
from typing import Any

import torch
from torch import Tensor

from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.values import (
    Numbers,
    Value,
    all_numbers,
    device_of,
    of_wide,
    operand,
    pairwise,
    tensor_of,
)


@operator("Equal")
def equal(a: Value, b: Value) -> Value:
    return pairwise(a, b, op.eq, dtype=torch.bool)


@operator("Less")
def less(a: Value, b: Value) -> Value:
    return pairwise(a, b, op.lt, dtype=torch.bool)


@operator("LessOrEqual")
def less_or_equal(a: Value, b: Value) -> Value:
    return pairwise(a, b, op.le, dtype=torch.bool)


@operator("Greater")
def greater(a: Value, b: Value) -> Value:
    return pairwise(a, b, op.gt, dtype=torch.bool)


@operator("GreaterOrEqual")
def greater_or_equal(a: Value, b: Value) -> Value:
    return pairwise(a, b, op.ge, dtype=torch.bool)


@operator("And")
def both(a: Value, b: Value) -> Value:
    return pairwise(a, b, op.and_)


@operator("Or")
def either(a: Value, b: Value) -> Value:
    return pairwise(a, b, op.or_)


@operator("Xor")
def one_of(a: Value, b: Value) -> Value:
    return pairwise(a, b, op.xor)


@operator("Not")
def invert(x: Value) -> Value:
    return x.like([not value for value in x.values]) if isinstance(x, Numbers) else torch.logical_not(x)


@operator("BitwiseAnd")
def bits_and(a: Tensor, b: Tensor) -> Tensor:
    return torch.bitwise_and(a, b)


@operator("BitwiseOr")
def bits_or(a: Tensor, b: Tensor) -> Tensor:
    return torch.bitwise_or(a, b)


@operator("BitwiseXor")
def bits_xor(a: Tensor, b: Tensor) -> Tensor:
    return torch.bitwise_xor(a, b)


@operator("BitwiseNot")
def bits_not(x: Tensor) -> Tensor:
    found: Tensor = of_wide(torch.bitwise_not)(x)
    return found


@operator("BitShift")
def bit_shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """Of unsigned numbers. PyTorch shifts signed ones alone: wide enough, they hold the same."""
    wide, by = a.to(torch.int64), b.to(torch.int64)
    shifted = wide << by if direction == "LEFT" else wide >> by
    return shifted.to(a.dtype)


@operator("Where")
def where(condition: Value, a: Value, b: Value) -> Value:
    if all_numbers((condition, a, b)):
        return _chosen(condition, a, b)  # type: ignore[arg-type]
    device = device_of((condition, a, b))
    mask = tensor_of(condition, device)
    left = operand(a, b) if isinstance(b, Tensor) else tensor_of(a, device)
    right = operand(b, a) if isinstance(a, Tensor) else tensor_of(b, device)
    if not isinstance(left, Tensor) and not isinstance(right, Tensor):
        left = tensor_of(a, device)
    return torch.where(mask, left, right)


def _chosen(condition: Numbers, a: Numbers, b: Numbers) -> Numbers:
    length = max(len(part.values) for part in (condition, a, b))
    columns = [part.values * length if len(part.values) == 1 else part.values for part in (condition, a, b)]
    values = [x if chosen else y for chosen, x, y in zip(*columns, strict=True)]
    return Numbers(tuple(values), max(condition.rank, a.rank, b.rank), a.dtype)


@operator("IsNaN")
def is_nan(x: Tensor) -> Tensor:
    return torch.isnan(x)


@operator("IsInf")
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    negative = torch.isneginf(x) if detect_negative else torch.zeros_like(x, dtype=torch.bool)
    return negative | torch.isposinf(x) if detect_positive else negative


def truth(value: Any) -> bool:
    """A condition of control flow."""
    return bool(value.values[0] if isinstance(value, Numbers) else value)
