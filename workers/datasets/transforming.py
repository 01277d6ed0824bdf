"""Fixed transforms of samples, as `app.catalog.transforms` declares them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from app.catalog import transforms
from app.catalog.transforms import Fixed
from workers.datasets.pixels import MOST_PIXELS, clipped, gray, resized
from workers.datasets.tokenizing import Tokenizing


class Value(NamedTuple):
    """An array of one sample; `channels_last` where it is an image that has them so."""

    array: np.ndarray
    channels_last: bool = False


def transformed(
    values: Mapping[str, Value], steps: Sequence[Fixed | Tokenizing], label: str | None
) -> dict[str, np.ndarray]:
    """The arrays of a sample after all steps.

    Raises:
        ValueError: a step does not fit an array.
    """
    now = dict(values)
    for step in steps:
        if isinstance(step, Tokenizing):
            now = _tokenized(step, now, label)
            continue
        if step.field is not None and step.field not in now:
            raise ValueError(f"{step.do}: there is no array {step.field!r}, there are {sorted(now)}")
        for name in [step.field] if step.field is not None else _fitting(step, now, label):
            try:
                now[name] = _apply(step, now[name])
            except ValueError as error:
                raise ValueError(f"{step.do} of {name!r}: {error}") from error
    return {name: np.asarray(value.array, order="C") for name, value in now.items()}


def _tokenized(step: Tokenizing, values: Mapping[str, Value], label: str | None) -> dict[str, Value]:
    """The arrays with tokens in place of the texts."""
    texts = []
    for name in step.sources:
        if name == label:
            raise ValueError(f"tokenize: {name!r} are the labels")
        if name not in values:
            raise ValueError(f"tokenize: there is no array {name!r}, there are {sorted(values)}")
        texts.append(values[name].array)
    try:
        tokens = step(texts)
    except ValueError as error:
        raise ValueError(f"tokenize of {' and '.join(map(repr, step.sources))}: {error}") from error
    others = {name: value for name, value in values.items() if name not in step.sources}
    if twice := sorted(tokens.keys() & others.keys()):
        raise ValueError(f"tokenize: there is an array {twice[0]!r} already")
    return others | {name: Value(array) for name, array in tokens.items()}


def _fitting(step: Fixed, values: Mapping[str, Value], label: str | None) -> list[str]:
    inputs = [name for name in values if name != label]
    if isinstance(step, transforms.Cast):
        return inputs
    images = [name for name in inputs if values[name].array.ndim == 3]
    if not images:
        raise ValueError(f"{step.do} takes images, and no array has three dimensions")
    return images


def _apply(step: Fixed, value: Value) -> Value:
    if isinstance(step, transforms.Cast):
        return value._replace(array=_cast(step, value.array))
    if value.array.dtype.kind not in "fiub":
        raise ValueError(f"it holds {value.array.dtype}, not numbers")
    if isinstance(step, transforms.Normalize):
        return value._replace(array=_normalize(step, value))
    if value.array.ndim != 3:
        raise ValueError(f"it has the shape {list(value.array.shape)}, an image has three dimensions")
    if isinstance(step, transforms.Layout):
        return _layout(step, value)
    image = value.array if value.channels_last else np.moveaxis(value.array, 0, 2)
    image = _WORK[type(step)](step, image)
    return value._replace(array=image if value.channels_last else np.moveaxis(image, 2, 0))


def _cast(step: transforms.Cast, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "fiub":
        raise ValueError(f"it holds {values.dtype}, not numbers")
    wanted = np.dtype(step.dtype)
    if wanted.kind in "iu":
        bounds = np.iinfo(wanted)
        if values.size and not (bounds.min <= values.min() and values.max() <= bounds.max):
            raise ValueError(f"{step.dtype} cannot hold values from {values.min()} to {values.max()}")
    return values.astype(wanted)


def _normalize(step: transforms.Normalize, value: Value) -> np.ndarray:
    axis = -1 if value.channels_last else 0
    found = value.array.astype(np.float32) * np.float32(step.scale)
    mean, std = (
        _by_channel(numbers, found, axis, name) for numbers, name in ((step.mean, "mean"), (step.std, "std"))
    )
    normalized: np.ndarray = (found - mean) / std
    return normalized


def _by_channel(numbers: list[float], values: np.ndarray, axis: int, name: str) -> np.ndarray:
    if len(numbers) == 1:
        return np.array(numbers[0], np.float32)
    if values.ndim == 0 or values.shape[axis] != len(numbers):
        where = "last" if axis else "first"
        raise ValueError(
            f"{name} has {len(numbers)} numbers, the {where} axis of an array of shape {list(values.shape)} does not"
        )
    shape = [1] * values.ndim
    shape[axis] = len(numbers)
    return np.array(numbers, np.float32).reshape(shape)


def _layout(step: transforms.Layout, value: Value) -> Value:
    last = value.channels_last if step.given is None else step.given == "channels-last"
    wanted = step.to == "channels-last"
    if last == wanted:
        return Value(value.array, wanted)
    return Value(np.moveaxis(value.array, 0, 2) if wanted else np.moveaxis(value.array, 2, 0), wanted)


def _resize(step: transforms.Resize, image: np.ndarray) -> np.ndarray:
    rows, columns = image.shape[:2]
    if step.shorter is not None:
        scale = step.shorter / min(rows, columns)
        high, wide = max(step.shorter, round(rows * scale)), max(step.shorter, round(columns * scale))
        high, wide = (step.shorter, wide) if rows <= columns else (high, step.shorter)
    else:
        high, wide = step.height or rows, step.width or columns
    if high * wide > MOST_PIXELS:
        raise ValueError(f"{high} × {wide} pixels are too many; {MOST_PIXELS} are taken")
    return resized(image, high, wide, step.filter)


def _center_crop(step: transforms.CenterCrop, image: np.ndarray) -> np.ndarray:
    rows, columns = image.shape[:2]
    if rows < step.height or columns < step.width:
        raise ValueError(
            f"an image of {rows} × {columns} has no part of {step.height} × {step.width}: `resize` or `pad` it before"
        )
    top, left = (rows - step.height) // 2, (columns - step.width) // 2
    return image[top : top + step.height, left : left + step.width]


def _pad(step: transforms.Pad, image: np.ndarray) -> np.ndarray:
    rows, columns = image.shape[:2]
    if rows > step.height or columns > step.width:
        raise ValueError(
            f"an image of {rows} × {columns} does not fit into {step.height} × {step.width}: `resize` or `center-crop` it before"
        )
    padded = np.full(
        (step.height, step.width, image.shape[2]), clipped(np.array(step.value), image.dtype), image.dtype
    )
    top, left = (step.height - rows) // 2, (step.width - columns) // 2
    padded[top : top + rows, left : left + columns] = image
    return padded


def _grayscale(step: transforms.Grayscale, image: np.ndarray) -> np.ndarray:
    if image.shape[2] == 1:
        return image
    if image.shape[2] != 3:
        raise ValueError(f"an image of {image.shape[2]} channels has no known colours")
    return clipped(gray(image, axis=2), image.dtype)


_WORK: dict[type, Callable[[Any, np.ndarray], np.ndarray]] = {
    transforms.Resize: _resize,
    transforms.CenterCrop: _center_crop,
    transforms.Pad: _pad,
    transforms.Grayscale: _grayscale,
}
