"""The operators of programs in 8 bits, in JAX: what `quantized_decomposed` says that they compute, in floating point.

Source: torch/ao/quantization/fx/_decomposed.py of torch 2.13.
"""

from collections.abc import Callable
from typing import Any

from workers.xla.devices import library


def _quantize(x: Any, scale: Any, zero_point: Any, low: int, high: int, dtype: Any) -> Any:
    np = library().numpy
    return np.clip(np.round(x * (1.0 / scale)) + zero_point, low, high).astype(_named(dtype))


def _dequantize(x: Any, scale: Any, zero_point: Any, dtype: Any) -> Any:
    return ((x.astype("float32") - zero_point) * scale).astype(
        _named(dtype) if dtype is not None else "float32"
    )


def _quantize_per_tensor(x: Any, scale: Any, zero_point: Any, low: int, high: int, dtype: Any) -> Any:
    return _quantize(x, scale, zero_point, low, high, dtype)


def _dequantize_per_tensor(
    x: Any, scale: Any, zero_point: Any, low: int, high: int, dtype: Any, *, out_dtype: Any = None
) -> Any:
    return _dequantize(x, scale, zero_point, out_dtype)


def _quantize_per_channel(
    x: Any, scales: Any, zero_points: Any, axis: int, low: int, high: int, dtype: Any
) -> Any:
    return _quantize(x, _along(scales, x, axis), _along(zero_points, x, axis), low, high, dtype)


def _dequantize_per_channel(
    x: Any,
    scales: Any,
    zero_points: Any,
    axis: int,
    low: int,
    high: int,
    dtype: Any,
    *,
    out_dtype: Any = None,
) -> Any:
    zero_points = 0 if zero_points is None else _along(zero_points, x, axis)
    return _dequantize(x, _along(scales, x, axis), zero_points, out_dtype)


def _along(values: Any, x: Any, axis: int) -> Any:
    """One value for each channel, to be broadcast over the others."""
    shape = [1] * x.ndim
    shape[axis] = -1
    return values.reshape(shape)


def _named(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


QUANTIZED: dict[str, Callable[..., Any]] = {
    f"quantized_decomposed::{name}{overload}": function
    for name, function, overloads in (
        ("quantize_per_tensor", _quantize_per_tensor, ("", ".tensor", ".tensor2")),
        ("dequantize_per_tensor", _dequantize_per_tensor, ("", ".tensor", ".tensor2")),
        ("quantize_per_channel", _quantize_per_channel, ("",)),
        ("dequantize_per_channel", _dequantize_per_channel, ("",)),
    )
    for overload in overloads
}
