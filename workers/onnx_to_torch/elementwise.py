"""Arithmetic, element by element. Shapes are computed with some of these, so they take numbers as well as tensors."""

import builtins
import math
import operator as op
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.values import Numbers, Value, all_numbers, device_of, of_wide, pairwise, tensor_of


def _truncated(a: Any, b: Any) -> Any:
    """Division as ONNX has it: of whole numbers towards zero."""
    if isinstance(a, float | torch.SymFloat) or isinstance(b, float | torch.SymFloat):
        return a / b
    if isinstance(a, int) and isinstance(b, int) and (a < 0) != (b < 0):
        return -(abs(a) // abs(b))
    return a // b


def _divided(a: Any, b: Any) -> Any:
    tensor = a if isinstance(a, Tensor) else b
    if tensor.is_floating_point() or tensor.is_complex():
        return a / b
    return torch.div(torch.as_tensor(a), b, rounding_mode="trunc").to(tensor.dtype)


@operator("Add")
def add(a: Value, b: Value) -> Value:
    return pairwise(a, b, op.add)


@operator("Sub")
def sub(a: Value, b: Value) -> Value:
    return pairwise(a, b, op.sub)


@operator("Mul")
def mul(a: Value, b: Value) -> Value:
    return pairwise(a, b, op.mul)


@operator("Div")
def div(a: Value, b: Value) -> Value:
    return pairwise(a, b, _divided, plain=_truncated)


@operator("Mod")
def mod(a: Value, b: Value, *, fmod: int = 0) -> Value:
    """The sign of the divisor (as Python's), or with `fmod` of the dividend (as C's)."""
    if fmod:
        return pairwise(a, b, _fmod, plain=math.fmod)
    return pairwise(a, b, _remainder, plain=op.mod)


def _fmod(a: Any, b: Any) -> Tensor:
    return torch.fmod(torch.as_tensor(a), b)


def _remainder(a: Any, b: Any) -> Tensor:
    return torch.remainder(torch.as_tensor(a), b)


@operator("Pow")
def power(a: Tensor, b: Value) -> Tensor:
    """The base's type is the result's."""
    exponent = b.values[0] if isinstance(b, Numbers) and not b.rank else tensor_of(b, a.device)
    return torch.pow(a, exponent).to(a.dtype)


@operator("Neg")
def neg(x: Value) -> Value:
    return _each(x, op.neg, torch.neg)


@operator("Abs")
def absolute(x: Value) -> Value:
    return _each(x, builtins.abs, torch.abs)


@operator("Floor")
def floor(x: Value) -> Value:
    return _each(x, _float_floor, torch.floor)


@operator("Ceil")
def ceil(x: Value) -> Value:
    return _each(x, _float_ceil, torch.ceil)


def _float_floor(value: Any) -> Any:
    return torch.sym_float(math.floor(value))  # type: ignore[no-untyped-call]


def _float_ceil(value: Any) -> Any:
    return torch.sym_float(math.ceil(value))  # type: ignore[no-untyped-call]


@operator("Sqrt")
def sqrt(x: Value) -> Value:
    return _each(x, torch.sym_sqrt, torch.sqrt) if _is_positive(x) else tensor_of(x).sqrt()


def _is_positive(x: Value) -> bool:
    return isinstance(x, Tensor) or all(type(value) is not float or value >= 0 for value in x.values)


def _each(x: Value, plain: Callable[[Any], Any], compute: Callable[[Tensor], Tensor]) -> Value:
    return x.like([plain(value) for value in x.values]) if isinstance(x, Numbers) else compute(x)


def _folded(
    values: tuple[Any, ...], compute: Callable[[Any, Any], Any], plain: Callable[[Any, Any], Any]
) -> Any:
    """One after the other. Tensors alone are given to `compute`."""
    if all_numbers(values):
        return reduce(lambda a, b: pairwise(a, b, compute, plain=plain), values)
    device = device_of(values)
    return reduce(of_wide(compute), [tensor_of(value, device) for value in values])


@operator("Max")
def maximum(*values: Value) -> Value:
    return _folded(values, torch.maximum, torch.sym_max)  # type: ignore[no-any-return]


@operator("Min")
def minimum(*values: Value) -> Value:
    return _folded(values, torch.minimum, torch.sym_min)  # type: ignore[no-any-return]


@operator("Sum")
def total(*values: Tensor) -> Tensor:
    return reduce(op.add, values)


@operator("Mean")
def mean(*values: Tensor) -> Tensor:
    return reduce(op.add, values) / len(values)


@operator("Sign")
def sign(x: Tensor) -> Tensor:
    return torch.sign(x)


@operator("Reciprocal")
def reciprocal(x: Tensor) -> Tensor:
    return torch.reciprocal(x)


@operator("Round")
def round_(x: Tensor) -> Tensor:
    """Halves to the even neighbour."""
    return torch.round(x)


@operator("Exp")
def exp(x: Tensor) -> Tensor:
    return torch.exp(x)


@operator("Log")
def log(x: Tensor) -> Tensor:
    return torch.log(x)


@operator("Erf")
def erf(x: Tensor) -> Tensor:
    return torch.erf(x) if x.is_floating_point() else torch.erf(x.float()).to(x.dtype)


@operator("Sin")
def sin(x: Tensor) -> Tensor:
    return torch.sin(x)


@operator("Cos")
def cos(x: Tensor) -> Tensor:
    return torch.cos(x)


@operator("Tan")
def tan(x: Tensor) -> Tensor:
    return torch.tan(x)


@operator("Asin")
def asin(x: Tensor) -> Tensor:
    return torch.asin(x)


@operator("Acos")
def acos(x: Tensor) -> Tensor:
    return torch.acos(x)


@operator("Atan")
def atan(x: Tensor) -> Tensor:
    return torch.atan(x)


@operator("Sinh")
def sinh(x: Tensor) -> Tensor:
    return torch.sinh(x)


@operator("Cosh")
def cosh(x: Tensor) -> Tensor:
    return torch.cosh(x)


@operator("Asinh")
def asinh(x: Tensor) -> Tensor:
    return torch.asinh(x)


@operator("Acosh")
def acosh(x: Tensor) -> Tensor:
    return torch.acosh(x)


@operator("Atanh")
def atanh(x: Tensor) -> Tensor:
    return torch.atanh(x)


@operator("Clip")
def clip(
    x: Value,
    low: Value | None = None,
    high: Value | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
) -> Value:
    """Below `low` is `low`, and above `high` is `high`, which wins where they cross."""
    if isinstance(x, Numbers):
        lower = maximum(x, low) if low is not None else x
        return minimum(lower, high) if high is not None else lower
    bounds = [_bound(value, x) for value in (low if min is None else min, high if max is None else max)]
    if all(bound is None for bound in bounds):
        return x
    if any(isinstance(bound, Tensor) for bound in bounds):
        bounds = [None if b is None else torch.as_tensor(b, dtype=x.dtype, device=x.device) for b in bounds]
    return torch.clamp(x, bounds[0], bounds[1])


def _bound(value: Any, x: Tensor) -> Any:
    """A bound as clamp takes it; the number that a type's end stands for is none."""
    if isinstance(value, Numbers):
        value = value.values[0]
    if isinstance(value, float) and x.dtype == torch.float32 and abs(value) >= torch.finfo(torch.float32).max:
        return None
    return value
