"""Random transforms of one image, an array of three dimensions; its shape and dtype stay."""

from collections.abc import Callable
from math import exp, log, sqrt
from typing import Any

import numpy as np

from app.catalog import transforms
from workers.datasets.pixels import clipped, gray, resized

_TRIES = 10  # for a part that fits into the image


def draw(step: Any, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The image as one of `app.catalog.transforms` leaves it."""
    if step.channels == "last":
        return np.moveaxis(_WORK[type(step)](step, np.moveaxis(image, 2, 0), random), 0, 2)
    return _WORK[type(step)](step, image, random)


def _flip(step: transforms.Flip, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return image[..., ::-1] if random.random() < step.probability else image


def _random_crop(step: transforms.RandomCrop, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    rows, columns = image.shape[1:]
    border = (step.padding, step.padding)
    top, left = random.integers(0, 2 * step.padding + 1, 2)
    return np.pad(image, ((0, 0), border, border))[:, top : top + rows, left : left + columns]


def _random_resized_crop(
    step: transforms.RandomResizedCrop, image: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    rows, columns = image.shape[1:]
    for _ in range(_TRIES):
        area = rows * columns * random.uniform(step.smallest, 1)
        ratio = exp(random.uniform(-log(step.stretch), log(step.stretch)))
        high, wide = round(sqrt(area / ratio)), round(sqrt(area * ratio))
        if 0 < high <= rows and 0 < wide <= columns:
            top, left = random.integers(rows - high + 1), random.integers(columns - wide + 1)
            part = image[:, top : top + high, left : left + wide]
            return np.moveaxis(resized(np.moveaxis(part, 0, 2), rows, columns, "bilinear"), 2, 0)
    return image


def _color_jitter(step: transforms.ColorJitter, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    amounts = step.brightness, step.contrast, step.saturation
    brightness, contrast, saturation = (random.uniform(1 - one, 1 + one) for one in amounts)
    values = image.astype(np.float32) * brightness
    middle = values.mean()
    values = middle + contrast * (values - middle)
    if len(values) == 3:
        plain = gray(values, axis=0)
        values = plain + saturation * (values - plain)
    return clipped(values, image.dtype)


def _erase(step: transforms.Erase, image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    if random.random() >= step.probability:
        return image
    rows, columns = image.shape[1:]
    side = sqrt(random.uniform(0, step.largest))
    high, wide = max(1, round(rows * side)), max(1, round(columns * side))
    top, left = random.integers(rows - high + 1), random.integers(columns - wide + 1)
    erased = image.copy()
    erased[:, top : top + high, left : left + wide] = 0
    return erased


_WORK: dict[type, Callable[[Any, np.ndarray, np.random.Generator], np.ndarray]] = {
    transforms.Flip: _flip,
    transforms.RandomCrop: _random_crop,
    transforms.RandomResizedCrop: _random_resized_crop,
    transforms.ColorJitter: _color_jitter,
    transforms.Erase: _erase,
}
