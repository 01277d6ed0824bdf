"""Quantization as arithmetic. Rounding and saturation let gradients through as if they were not there (straight-through),
so a quantized network trains on: a weight stored in integers becomes a floating parameter that is rounded each time.
"""

from typing import Any

import torch
from torch import Tensor, fx

from workers.onnx_to_torch.build import Builder
from workers.onnx_to_torch.convolution import convolved, window
from workers.onnx_to_torch.model import Node
from workers.onnx_to_torch.registry import layer, operator
from workers.onnx_to_torch.types import TYPES, type_name
from workers.onnx_to_torch.values import Ints, Value, tensor_of

_LIMITS = {
    kind: (torch.iinfo(kind).min, torch.iinfo(kind).max)
    for kind in (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32)
}


def _refuses(node: Any) -> str | None:
    wanted = node.attributes.get("output_dtype", 0)
    if wanted and TYPES.get(wanted) not in (*_LIMITS, torch.float32, torch.float16, torch.bfloat16):
        return f"the type {type_name(wanted)}"
    return None


def along(x: Tensor, values: Value, axis: int, block: int) -> Tensor:
    """Scales or zero points in a shape that broadcasts: one, one a channel of `axis`, or one a block of `block` channels."""
    found: Tensor = tensor_of(values, x.device)
    if found.numel() == 1 and not block:
        return found.reshape(())
    if block:
        return found.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    around = [1] * x.ndim
    around[axis] = -1
    return found.reshape(around)


def levels(x: Tensor, scale: Tensor, zero: Tensor | float, limits: tuple[int, int]) -> Tensor:
    """The levels that quantization gives, as floating numbers. Beyond the limits nothing flows back."""
    scaled = x / scale
    rounded = (
        scaled + (torch.round(scaled) - scaled).detach() if scaled.requires_grad else torch.round(scaled)
    )
    return torch.clamp(rounded + zero, *limits)


@operator("QuantizeLinear", folds=False, refuses=_refuses)
def quantize_linear(
    x: Tensor,
    scale: Value,
    zero: Value | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    kind = zero.dtype if zero is not None else TYPES.get(output_dtype, torch.uint8)
    steps = along(x, scale, axis, block_size)
    shift = 0.0 if zero is None else along(x, zero, axis, block_size).to(x.dtype)
    return levels(x, steps.to(x.dtype), shift, _LIMITS[kind]).to(kind)


@operator("DequantizeLinear", folds=False, refuses=_refuses)
def dequantize_linear(
    x: Tensor,
    scale: Value,
    zero: Value | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    steps = along(x, scale, axis, block_size)
    kind = TYPES.get(output_dtype, steps.dtype)
    wide = (
        x.to(torch.int32)
        if zero is None
        else x.to(torch.int32) - along(x, zero, axis, block_size).to(torch.int32)
    )
    return (wide.to(steps.dtype) * steps).to(kind)


def fake_quantize(
    x: Tensor, scale: Value, zero: Value | None, axis: int, block: int, low: int, high: int
) -> Tensor:
    """Quantized and back: what the network computes with, with a gradient."""
    steps = along(x, scale, axis, block)
    shift = 0.0 if zero is None else along(x, zero, axis, block).to(x.dtype)
    return (levels(x, steps, shift, (low, high)) - shift) * steps


@layer("DequantizeLinear")
def dequantize(node: Node, build: Builder) -> list[fx.Node] | None:
    """A pair, or a stored weight, as one operation through which gradients go."""
    axis, block = node.attributes.get("axis", 1), node.attributes.get("block_size", 0)
    if node.attributes.get("output_dtype", 0):
        return None
    scale = build.value(node.inputs[1])
    zero = build.value(node.input(2)) if node.input(2) else None
    stored = build.constant(node.inputs[0])
    if stored is not None:
        kind = stored.tensor.dtype
        known = [build.constant(name) for name in node.inputs[1:]]
        if kind not in (torch.int8, torch.uint8) or stored.tensor.ndim < 2 or None in known:
            return None
        given = [one.value for one in known if one]
        weight = dequantize_linear(stored.tensor, *given, axis=axis, block_size=block)
        parameter = build.new_parameter(stored, weight)
        x = build.weight_value(parameter, node.inputs[0])
        return [build.call(fake_quantize, x, scale, zero, axis, block, *_LIMITS[kind])]
    source = build.producer(node.inputs[0])
    if source is None or source.kind != "QuantizeLinear" or not _same_grid(source, node, build):
        return None
    grid = _kind_of(source, build)
    if grid is None or grid not in _LIMITS or grid == torch.int32:
        return None
    x = build.value(source.inputs[0])
    return [build.call(fake_quantize, x, scale, zero, axis, block, *_LIMITS[grid])]


def _same_grid(source: Node, node: Node, build: Builder) -> bool:
    same = tuple(map(build.model.source, source.inputs[1:])) == tuple(
        map(build.model.source, node.inputs[1:])
    )
    keys = ("axis", "block_size")
    return same and all(source.attributes.get(key) == node.attributes.get(key) for key in keys)


def _kind_of(source: Node, build: Builder) -> torch.dtype | None:
    if not source.input(2):
        return TYPES.get(source.attributes.get("output_dtype", 0), torch.uint8)
    zero = build.constant(source.input(2))
    return zero.value.dtype if zero else None


@operator("DynamicQuantizeLinear", several=True)
def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By the tensor's own range, which holds zero, to unsigned bytes."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    return levels(x, scale, zero, (0, 255)).to(torch.uint8), scale, zero.to(torch.uint8)


def _centred(x: Tensor, zero: Tensor | None, rows: bool = False) -> Tensor:
    """Integers less their zero point, wide enough for exact sums."""
    if zero is None:
        return x.double()
    if rows and zero.ndim == 1 and zero.numel() > 1:
        zero = zero[:, None]
    return x.double() - zero.double()


@operator("MatMulInteger")
def matmul_integer(
    a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    return torch.matmul(_centred(a, a_zero, rows=True), _centred(b, b_zero)).to(torch.int32)


@operator("QLinearMatMul")
def qlinear_matmul(
    a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor,
    y_scale: Tensor, y_zero: Tensor,
) -> Tensor:  # fmt: skip
    found = torch.matmul(_centred(a, a_zero, rows=True), _centred(b, b_zero))
    scale = a_scale.double() * b_scale.double() / y_scale.double()
    return torch.clamp(torch.round(found * scale) + y_zero.double(), *_LIMITS[y_zero.dtype]).to(y_zero.dtype)


@operator("ConvInteger")
def conv_integer(
    x: Tensor,
    weight: Tensor,
    x_zero: Tensor | None = None,
    w_zero: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """What pads hold is the zero point, so zeros once that is taken off."""
    around = (-1,) + (1,) * (weight.ndim - 1)
    centred = weight.double() if w_zero is None else weight.double() - w_zero.double().reshape(around)
    over = window(tuple(weight.shape[2:]), strides, dilations, pads, auto_pad)
    return convolved(_centred(x, x_zero), centred, None, over, group).to(torch.int32)


@operator("QLinearConv")
def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Scales and zero points of the weight are one, or one an output channel; the bias is in steps of both scales."""
    around = (-1,) + (1,) * (weight.ndim - 1)
    over = window(tuple(weight.shape[2:]), strides, dilations, pads, auto_pad)
    centred = weight.double() - w_zero.double().reshape(around)
    wide = None if bias is None else bias.double()
    found = convolved(_centred(x, x_zero), centred, wide, over, group)
    scale = (x_scale.double() * w_scale.double() / y_scale.double()).reshape(around[:-1])
    return torch.clamp(torch.round(found * scale) + y_zero.double(), *_LIMITS[y_zero.dtype]).to(y_zero.dtype)
