"""Reading `.npz` a row at a time: each array is a stream, decompressed as it is read, never held whole."""

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from app.errors import InvalidDataset

LABEL_NAMES = ("labels", "label", "y", "targets")


@dataclass(frozen=True)
class ArrayHeader:
    """What the header of one array says; `shape` includes the sample axis."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """The size of one sample."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


def read_headers(path: Path) -> list[ArrayHeader]:
    """The header of every array, no data read.

    Raises:
        InvalidDataset: the file is no `.npz`, or an array cannot be read row by row without running code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [_checked(archive, info) for info in archive.infolist() if not info.is_dir()]
    except zipfile.BadZipFile as error:
        raise InvalidDataset(
            f"the file is not a readable .npz archive: {error}", hint="write it with numpy.savez or numpy.savez_compressed"
        ) from error


def read_rows(path: Path, names: list[str], size: int) -> Iterator[dict[str, np.ndarray]]:
    """Chunks of at most `size` rows of several arrays side by side, in the file's order.

    Raises:
        InvalidDataset: an array ends before its header says.
    """
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        streams = {name: stack.enter_context(archive.open(f"{name}.npy")) for name in names}
        headers = {name: _header(name, stream) for name, stream in streams.items()}
        total = min(header.shape[0] for header in headers.values())
        for start in range(0, total, size):
            count = min(size, total - start)
            yield {name: _take(streams[name], headers[name], start, count) for name in names}


def _checked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayHeader:
    name = info.filename.removesuffix(".npy")
    if name == info.filename:
        raise InvalidDataset(f"{info.filename!r} in the archive is not an array", hint="an .npz holds .npy files alone")
    if info.flag_bits & 0x1:
        raise InvalidDataset(f"array {name!r} is encrypted")
    with archive.open(info) as stream:
        header = _header(name, stream)
        if not header.shape:
            raise InvalidDataset(
                f"array {name!r} is a scalar", param=name, hint="the first axis of every array counts the samples"
            )
        stated = header.shape[0] * header.row_bytes
        held = info.file_size - stream.tell()
        if held != stated:
            raise InvalidDataset(
                f"array {name!r} says that it has {stated} bytes and holds {held}", param=name, hint="write the file again"
            )
    return header


def _header(name: str, stream: IO[bytes]) -> ArrayHeader:
    try:
        version = npy.read_magic(stream)
        reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = reader(stream)
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise InvalidDataset(f"array {name!r} has no readable header: {error}", param=name) from error
    if dtype.hasobject:
        raise InvalidDataset(
            f"array {name!r} holds Python objects, which only unpickling could read",
            param=name,
            hint="convert it to numbers or fixed-width strings before saving",
        )
    if dtype.names or dtype.subdtype:
        raise InvalidDataset(f"array {name!r} has a structured dtype", param=name, hint="save one array per field")
    if fortran and len(shape) > 1:
        raise InvalidDataset(
            f"array {name!r} is in Fortran order, which keeps samples apart",
            param=name,
            hint="save numpy.ascontiguousarray(array)",
        )
    return ArrayHeader(name, dtype, tuple(int(dim) for dim in shape))


def _take(stream: IO[bytes], header: ArrayHeader, start: int, count: int) -> np.ndarray:
    wanted = count * header.row_bytes
    data = bytearray()
    try:
        while len(data) < wanted and (piece := stream.read(wanted - len(data))):
            data += piece
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InvalidDataset(f"array {header.name!r} cannot be read at sample {start}: {error}") from error
    if len(data) != wanted:
        raise InvalidDataset(f"array {header.name!r} ends before sample {start + count}")
    return np.frombuffer(data, header.dtype).reshape(count, *header.shape[1:])
