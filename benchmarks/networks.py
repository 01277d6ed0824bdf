"""Real networks that registry packages ship, with data that they were made for where there is some."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAGIKA_BYTES = 1024  # from each end of a file
MAGIKA_PADDING = 256


@dataclass(frozen=True)
class Network:
    """A network, and samples for calibration: arrays by input name, samples on the first axis."""

    name: str
    path: Callable[[], Path]
    data: Callable[[], dict[str, np.ndarray]]


def packaged(package: str, file: str) -> Path:
    """A file inside an installed package, which is not imported.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"{package} is not installed: run make")
    return Path(spec.submodule_search_locations[0]) / file


def source_files(count: int = 48) -> dict[str, np.ndarray]:
    """Python files as magika reads them: 1,024 bytes from each end, padded."""
    files = sorted(Path(np.__file__).parent.rglob("*.py"))[:count]
    rows = np.full((len(files), 2 * MAGIKA_BYTES), MAGIKA_PADDING, np.int32)
    for row, file in zip(rows, files, strict=True):
        content = np.frombuffer(file.read_bytes(), np.uint8)
        head, tail = content[:MAGIKA_BYTES], content[-MAGIKA_BYTES:]
        row[: len(head)] = head
        row[MAGIKA_BYTES : MAGIKA_BYTES + len(tail)] = tail
    return {"bytes": rows}


def speech(count: int = 16) -> dict[str, np.ndarray]:
    """Noise in silero's form: 32 ms at 16 kHz, the recurrent state, the rate."""
    noise = np.random.default_rng(0).standard_normal((count, 1, 512)).astype(np.float32)
    return {
        "input": 0.1 * noise,
        "state": np.zeros((count, 2, 1, 128), np.float32),
        "sr": np.full(count, 16000, np.int64),
    }


def lines(count: int = 24) -> dict[str, np.ndarray]:
    """Text lines in rapidocr's form: dark strokes on light ground, scaled to -1..1."""
    random = np.random.default_rng(0)
    images = np.ones((count, 3, 48, 192), np.float32)
    for image in images:
        for left in random.integers(4, 180, 24):
            top = random.integers(6, 20)
            image[:, top : top + random.integers(8, 24), left : left + 3] = -1
    return {"x": images}


NETWORKS = (
    Network(
        "magika (file types)", lambda: packaged("magika", "models/standard_v3_3/model.onnx"), source_files
    ),
    Network("silero-vad (speech, with If)", lambda: packaged("silero_vad", "data/silero_vad.onnx"), speech),
    Network(
        "rapidocr (text recognition)", lambda: packaged("rapidocr", "models/PP-OCRv6_rec_small.onnx"), lines
    ),
    Network(
        "rapidocr (text direction)",
        lambda: packaged("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"),
        lines,
    ),
)
