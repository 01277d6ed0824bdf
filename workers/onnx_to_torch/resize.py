"""Resize: one axis after the other, each output a weighted sum of a few inputs along it."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.values import Floats, Ints

_SMOOTH = {3: "linear", 4: "bilinear", 5: "trilinear"}


@operator("Upsample")
def upsample(
    x: Tensor, by: Floats | None = None, *, scales: Floats | None = None, mode: str = "nearest"
) -> Tensor:
    """Resize as it was before opset 10."""
    return _resized(x, by if by is not None else scales, None, mode, "asymmetric", "floor")


@operator("Resize")
def resize(
    x: Tensor,
    roi: Floats | None = None,
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    antialias: int = 0,
    axes: Ints | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    opset: int,
) -> Tensor:
    if opset < 11:  # its second input was the scales
        return _resized(x, roi, None, mode, "asymmetric", "floor")
    named = tuple(range(x.ndim)) if axes is None else tuple(axis % x.ndim for axis in axes)
    full: list[Any] = [None] * x.ndim
    lengths: list[Any] = [None] * x.ndim
    regions: list[Any] = [(0.0, 1.0)] * x.ndim
    wanted = _kept_aspect(x, named, sizes, keep_aspect_ratio_policy) if sizes else None
    for place, axis in enumerate(named):
        if wanted is not None:
            lengths[axis], full[axis] = wanted[place]
        elif scales:
            full[axis] = scales[place]
        if roi and len(roi) == 2 * len(named):
            regions[axis] = (roi[place], roi[place + len(named)])
    return _resized(
        x, full, lengths, mode, coordinate_transformation_mode, nearest_mode,
        regions=regions, antialias=bool(antialias), a=cubic_coeff_a, exclude=bool(exclude_outside),
        outside=extrapolation_value,
    )  # fmt: skip


def _kept_aspect(x: Tensor, axes: Ints, sizes: Ints, policy: str) -> list[tuple[Any, Any]]:
    """(length, scale) of each axis."""
    scales = [size / x.shape[axis] for axis, size in zip(axes, sizes, strict=True)]
    if policy == "stretch":
        return list(zip(sizes, scales, strict=True))
    one = min(scales) if policy == "not_larger" else max(scales)
    return [(math.floor(x.shape[axis] * one + 0.5), one) for axis in axes]


def _resized(
    x: Tensor, scales: Any, lengths: Any, mode: str, coordinates: str, nearest: str, **more: Any
) -> Tensor:
    lengths = list(lengths) if lengths is not None else [None] * x.ndim
    scales = [None if _is_one(scale) and lengths[i] is None else scale for i, scale in enumerate(scales)]
    for axis, scale in enumerate(scales):
        if lengths[axis] is None:
            lengths[axis] = x.shape[axis] if scale is None else _times(x.shape[axis], scale)
    quick = None if more.get("antialias") else _quick(x, scales, lengths, mode, coordinates, nearest)
    if quick is not None:
        return quick
    kind = x.dtype
    for axis, scale in enumerate(scales):
        region = more["regions"][axis] if more else (0.0, 1.0)
        if scale is None or (
            coordinates != "tf_crop_and_resize" and _is_same(x.shape[axis], lengths[axis], scale)
        ):
            if coordinates != "tf_crop_and_resize" or region == (0.0, 1.0):
                continue
            scale = 1.0
        x = _one_axis(x, axis, lengths[axis], scale, mode, coordinates, nearest, region, more)
    return x.to(kind) if kind.is_floating_point else x.round().to(kind)


def _is_one(scale: Any) -> bool:
    return isinstance(scale, int | float) and scale == 1


def _is_same(have: Any, want: Any, scale: Any) -> bool:
    return _is_one(scale) and type(have) is int and have == want


def _times(size: Any, scale: Any) -> Any:
    """A length, without floating symbols where the scale is whole."""
    if isinstance(scale, float) and scale == int(scale):
        return size * int(scale)
    return math.floor(size * scale)


def _quick(x: Tensor, scales: Any, lengths: Any, mode: str, coordinates: str, nearest: str) -> Tensor | None:
    """PyTorch's own where it is the same: whole scales or given sizes, of the dimensions behind the channels."""
    outer = all(scale is None for scale in scales[:2]) or _unchanged(x, lengths)
    if x.ndim not in _SMOOTH or not x.is_floating_point() or not outer:
        return None
    spatial = scales[2:]
    if not all(
        scale is None or _whole(scale, size, length)
        for scale, size, length in zip(spatial, x.shape[2:], lengths[2:], strict=True)
    ):
        return None
    if mode == "nearest" and coordinates == "asymmetric" and nearest == "floor":
        return nnf.interpolate(x, tuple(lengths[2:]), mode="nearest")
    if coordinates == "pytorch_half_pixel" and any(length == 1 for length in lengths[2:]):
        return None
    if mode == "linear" and coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        corners = coordinates == "align_corners"
        return nnf.interpolate(x, tuple(lengths[2:]), mode=_SMOOTH[x.ndim], align_corners=corners)
    return None


def _unchanged(x: Tensor, lengths: Any) -> bool:
    return all(type(n) is int and n == have for n, have in zip(lengths[:2], x.shape[:2], strict=True))


def _whole(scale: Any, size: Any, length: Any) -> bool:
    """Whether the length over the size is the scale exactly, so that both give the same coordinates."""
    if isinstance(scale, int | float) and scale == int(scale):
        return True
    return type(size) is int and type(length) is int and abs(scale * size - length) < 1e-6


def _one_axis(
    x: Tensor,
    axis: int,
    length: Any,
    scale: Any,
    mode: str,
    coordinates: str,
    nearest: str,
    region: tuple[float, float],
    more: dict[str, Any],
) -> Tensor:
    size = x.shape[axis]
    places = _coordinates(length, size, scale, coordinates, region, x.device)
    if mode == "nearest":
        found = x.index_select(axis, _nearest(places, nearest).clamp(0, size - 1).to(torch.int64))
    else:
        matrix = _weights(places, size, scale, mode, more)
        wide = x if x.is_floating_point() else x.double()
        found = torch.movedim(torch.matmul(torch.movedim(wide, axis, -1), matrix.T.to(wide.dtype)), -1, axis)
    if coordinates != "tf_crop_and_resize":
        return found
    around = [1] * x.ndim
    around[axis] = -1
    beyond = ((places < 0) | (places > size - 1)).reshape(around)
    return torch.where(beyond, torch.full_like(found[:1], more["outside"]), found)


def _coordinates(
    length: Any, size: Any, scale: Any, kind: str, region: tuple[float, float], device: torch.device
) -> Any:
    """Where in the input each output lies. Lengths of one are those of the formulas' own cases.

    With `align_corners` the length is the output's, as the standard's text has it, PyTorch and ONNX Runtime; the
    standard's two cases of scales that leave a fraction count that too.
    """
    steps: Any = torch.arange(length, dtype=torch.float64, device=device)
    wide = size * scale
    if kind == "align_corners":
        return steps * 0 if type(length) is int and length == 1 else steps * ((size - 1) / (length - 1))
    if kind == "asymmetric":
        return steps / scale
    if kind == "tf_crop_and_resize":
        start, end = region
        if length == 1:
            return steps + 0.5 * (start + end) * (size - 1)
        return start * (size - 1) + steps * ((end - start) * (size - 1) / (length - 1))
    if kind == "pytorch_half_pixel" and type(length) is int and length == 1:
        return steps * 0
    shift = 0.0
    if kind == "half_pixel_symmetric":
        shift = size / 2 * (1 - length / wide)
    return shift + (steps + 0.5) / scale - 0.5


def _nearest(places: Tensor, kind: str) -> Tensor:
    if kind == "round_prefer_floor":
        return torch.ceil(places - 0.5)
    if kind == "round_prefer_ceil":
        return torch.floor(places + 0.5)
    return torch.ceil(places) if kind == "ceil" else torch.floor(places)


def _weights(places: Tensor, size: Any, scale: Any, mode: str, more: dict[str, Any]) -> Tensor:
    """(outputs, inputs): what each output takes of each input. Beyond the ends the last input stands, or nothing with `exclude`."""
    squeeze = min(scale, 1.0) if more.get("antialias") else 1.0
    reach = math.ceil((1 if mode == "linear" else 2) / squeeze)
    first = torch.floor(places).to(torch.int64) - reach + 1
    taps = first[:, None] + torch.arange(2 * reach, device=places.device)
    distance = (places[:, None] - taps).abs() * squeeze
    weights = _triangle(distance) if mode == "linear" else _cubic(distance, more.get("a", -0.75))
    if more.get("exclude"):
        weights = weights * ((taps >= 0) & (taps < size))
    if more.get("exclude") or squeeze != 1.0:
        weights = weights / weights.sum(1, keepdim=True)
    matrix = torch.zeros(places.shape[0], size, dtype=weights.dtype, device=places.device)
    return matrix.scatter_add(1, taps.clamp(0, size - 1), weights)


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(d: Tensor, a: float) -> Tensor:
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
