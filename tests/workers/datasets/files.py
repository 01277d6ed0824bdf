"""Small datasets of each format, the same images in all."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from workers.assignment import DatasetFiles
from workers.datasets.opening import FILES

COUNT = 20


def images(count: int = COUNT, rows: int = 6, columns: int = 8) -> np.ndarray:
    """[count, rows, columns, 3], uint8."""
    return np.random.default_rng(1).integers(0, 256, (count, rows, columns, 3)).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image.squeeze()).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def members(given: np.ndarray | None = None) -> list[tuple[str, bytes]]:
    """Images and their classes, `0000.png`, `0000.cls` …"""
    found = images() if given is None else given
    return [
        pair
        for number, image in enumerate(found)
        for pair in (
            (f"train/{number:04d}.png", png(image)),
            (f"train/{number:04d}.cls", str(number % 3).encode()),
        )
    ]


def files(root: Path, format_: str, **declared: Any) -> DatasetFiles:
    return DatasetFiles(
        id="dat_1", digest="0" * 64, root=root, format=format_, name="data", declared=declared
    )


def tar(root: Path, given: list[tuple[str, bytes]] | None = None, **declared: Any) -> DatasetFiles:
    write_tar(root / FILES["tar"], members() if given is None else given)
    return files(root, "tar", **declared)


def parquet(root: Path, columns: dict[str, Any] | None = None, **declared: Any) -> DatasetFiles:
    import pyarrow as pa
    from pyarrow import parquet as form

    if columns is None:
        columns = {
            "image": [{"bytes": png(image), "path": None} for image in images()],
            "label": [number % 3 for number in range(COUNT)],
        }
    form.write_table(pa.table(columns), root / FILES["parquet"], row_group_size=7)
    return files(root, "parquet", **declared)
