"""Images as arrays, decoded and scaled by Pillow.

Weighed on this: simplejpeg decodes JPEG 1.4 times as fast and nothing else; OpenCV decodes 1.4 times as fast (4 times for PNG
of 28 × 28), but comes with 150 MB and video decoders behind the same call. What is kept is decoded once (`datasets/rows.py`).
"""

import io
import warnings

import numpy as np
from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MOST_PIXELS = 64 * 1024 * 1024
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def decoded(data: bytes) -> np.ndarray:
    """An image as [rows, columns, channels]: uint8 of 1 or 3 channels (alpha is dropped), uint16 of 1.

    Raises:
        ValueError: it is no image of `FORMATS`, damaged, or has more than `MOST_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata, and of sizes, which are held to a bound here
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(
                        f"it has {image.width} × {image.height} pixels, {MOST_PIXELS} are taken in all"
                    )
                if image.mode.startswith("I;16"):
                    values = np.array(image)
                else:
                    values = np.array(image if image.mode in ("L", "RGB") else image.convert(_mode(image)))
    except (OSError, SyntaxError, EOFError, IndexError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(str(error)[:300] or type(error).__name__) from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"it has too many pixels: {str(error)[:200]}") from error
    return values if values.ndim == 3 else values[:, :, np.newaxis]


def resized(image: np.ndarray, rows: int, columns: int, by: str) -> np.ndarray:
    """An image [rows, columns, channels] at another size, of the same dtype."""
    if image.shape[:2] == (rows, columns):
        return image
    size, how = (columns, rows), _FILTERS[by]
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.array(Image.fromarray(np.ascontiguousarray(image)).resize(size, how))
    if image.dtype == np.uint8:
        planes = [np.array(Image.fromarray(plane).resize(size, how)) for plane in _planes(image)]
    else:
        planes = [
            np.array(Image.fromarray(plane.astype(np.float32)).resize(size, how)) for plane in _planes(image)
        ]
    return clipped(np.stack(planes, axis=2), image.dtype)


def gray(image: np.ndarray, axis: int) -> np.ndarray:
    """The brightness of an image of three channels, float32, with one channel on the same axis."""
    shape = [1, 1, 1]
    shape[axis] = 3
    brightness: np.ndarray = (image * _GRAY.reshape(shape)).sum(axis, keepdims=True, dtype=np.float32)
    return brightness


def clipped(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values rounded into a dtype, held to its range where that is one of integers."""
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        values = np.clip(np.rint(values), bounds.min, bounds.max)
    return values.astype(dtype)


def _planes(image: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(image[:, :, channel]) for channel in range(image.shape[2])]


def _mode(image: Image.Image) -> str:
    if image.mode in ("1", "LA", "La"):
        return "L"
    return "RGB"
