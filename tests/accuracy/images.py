"""Images of 28 by 28 grey values and their classes, in the IDX format of MNIST (http://yann.lecun.com/exdb/mnist/)."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIDE = 28
HEADER = {2051: 16, 2049: 8}  # magic number: bytes before the data


@dataclass(frozen=True)
class Split:
    """Images [n, 1, 28, 28] in float32 and classes [n] in int64, apart for training and testing, as their makers parted them."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def load(folder: Path, mean: float, deviation: float) -> Split:
    """The four files of a folder; grey values in 0..1, then less `mean`, over `deviation`."""
    images = [
        ((_read(folder, f"{side}-images-idx3-ubyte") / np.float32(255)) - np.float32(mean))
        / np.float32(deviation)
        for side in ("train", "t10k")
    ]
    labels = [_read(folder, f"{side}-labels-idx1-ubyte").astype(np.int64) for side in ("train", "t10k")]
    train, test = (array.reshape(-1, 1, SIDE, SIDE) for array in images)
    return Split(train, labels[0], test, labels[1])


def _read(folder: Path, name: str) -> np.ndarray:
    packed = folder / f"{name}.gz"
    content = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / name).read_bytes()
    return np.frombuffer(content, np.uint8, offset=HEADER[int.from_bytes(content[:4], "big")])
