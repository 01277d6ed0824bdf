"""Reading `.npz` a row at a time: each array is a stream, decompressed as it is read, never held whole."""

import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from app.errors import InvalidDataset
from app.text import is_plain
from workers.archive import is_damage, open_zip

LABEL_NAMES = ("labels", "label", "y", "targets")
_SAVE_AGAIN = "write it again with numpy.savez or numpy.savez_compressed"
_NPY_HEAD = b"\x93NUMPY"
_LOCAL_LENGTHS_AT = 26  # in a zip member's local header: the lengths of its name and of what follows that
_MOST_ARRAYS = 1000
_MOST_AXES = 64  # numpy's own bound
_MOST_NAME_CHARS = 255
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, KeyError, RuntimeError, OSError,
)  # fmt: skip
# what Python's own parser says to a hostile header, which numpy hands it: of ten thousand characters at most
_NO_HEADER = (tokenize.TokenError, SyntaxError, MemoryError, TypeError, ArithmeticError)


@dataclass(frozen=True)
class ArrayHeader:
    """What the header of one array says; `shape` includes the sample axis.

    `offset` is where in the file its values begin; None where they are compressed, and so cannot be read by number.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int | None = None

    @property
    def row_bytes(self) -> int:
        """The size of one sample."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def dtype_name(self) -> str:
        """numpy's name of the dtype, `string` for text of any length."""
        return "string" if self.dtype.kind in "SU" else self.dtype.name


def read_headers(path: Path) -> list[ArrayHeader]:
    """The header of every array, no data read.

    Raises:
        InvalidDataset: the file is no `.npz`, or an array cannot be read row by row without running code.
    """
    with path.open("rb") as stream:
        if stream.read(len(_NPY_HEAD)) == _NPY_HEAD:
            raise InvalidDataset(
                "the file is an .npy: one array, and no word on which input it is for",
                hint="name it: `numpy.savez('data.npz', INPUT=numpy.load('data.npy'))`, where INPUT is the model's name for it",
            )
    with _damage_named("the file is not a readable .npz archive"), open_zip(path) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        if len(members) > _MOST_ARRAYS:
            raise InvalidDataset(
                f"the file holds {len(members)} arrays; {_MOST_ARRAYS} are taken",
                hint="one array per input of the network, its samples on the first axis",
            )
        headers = [_checked(archive, info) for info in members]
    names = [header.name for header in headers]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InvalidDataset(f"the file holds arrays of the same name: {sorted(twice)}", hint=_SAVE_AGAIN)
    return headers


def read_rows(path: Path, headers: list[ArrayHeader], size: int) -> Iterator[dict[str, np.ndarray]]:
    """Chunks of at most `size` rows of several arrays side by side, in the file's order.

    Raises:
        InvalidDataset: an array is damaged, or ends before its header says.
    """
    with ExitStack() as stack:
        with _damage_named("the file is not a readable .npz archive"):
            archive = stack.enter_context(zipfile.ZipFile(path))
            streams = [stack.enter_context(archive.open(f"{header.name}.npy")) for header in headers]
            for header, stream in zip(headers, streams, strict=True):
                _header(header.name, stream)
        total = min(header.shape[0] for header in headers)
        for start in range(0, total, size):
            count = min(size, total - start)
            yield {
                header.name: _take(stream, header, start, count)
                for header, stream in zip(headers, streams, strict=True)
            }


def _checked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayHeader:
    name = info.filename.removesuffix(".npy")
    if name == info.filename:
        raise InvalidDataset(
            f"{info.filename!r} in the archive is not an array", hint="an .npz holds .npy files alone"
        )
    if not 0 < len(name) <= _MOST_NAME_CHARS or not is_plain(name):
        raise InvalidDataset(
            f"an array has an unusable name: {name[:100]!r}", hint="name it like an input of the network"
        )
    if info.flag_bits & 0x1:
        raise InvalidDataset(f"array {name!r} is encrypted")
    with archive.open(info) as stream:
        header = _header(name, stream)
        if not header.shape:
            raise InvalidDataset(
                f"array {name!r} is a scalar",
                param=name,
                hint="the first axis of every array counts the samples",
            )
        stated = header.shape[0] * header.row_bytes
        held = info.file_size - stream.tell()
        if held != stated or min(header.shape) < 0:
            raise InvalidDataset(
                f"array {name!r} says that it has {stated} bytes and holds {held}",
                param=name,
                hint=_SAVE_AGAIN,
            )
        begins = stream.tell()
    if info.compress_type != zipfile.ZIP_STORED:
        return header
    return replace(header, offset=_data_offset(archive, info) + begins)


def _data_offset(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Where in the file a member's bytes begin: behind its local header (APPNOTE.TXT 4.3.7)."""
    assert archive.fp is not None
    archive.fp.seek(info.header_offset + _LOCAL_LENGTHS_AT)
    name, extra = struct.unpack("<HH", archive.fp.read(4))
    return int(info.header_offset + _LOCAL_LENGTHS_AT + 4 + name + extra)


def _header(name: str, stream: IO[bytes]) -> ArrayHeader:
    with _damage_named(f"array {name!r} has no readable header"):
        version = npy.read_magic(stream)
        reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        try:
            shape, fortran, dtype = reader(stream)
        except _NO_HEADER as error:
            raise ValueError(str(error)) from error
    if len(shape) > _MOST_AXES:
        raise InvalidDataset(f"array {name!r} has {len(shape)} dimensions; {_MOST_AXES} are taken")
    if dtype.hasobject:
        raise InvalidDataset(
            f"array {name!r} holds Python objects, which only unpickling could read",
            param=name,
            hint="convert it to numbers or fixed-width strings before saving",
        )
    if dtype.names or dtype.subdtype:
        raise InvalidDataset(
            f"array {name!r} has a structured dtype", param=name, hint="save one array per field"
        )
    if fortran and len(shape) > 1:
        raise InvalidDataset(
            f"array {name!r} is in Fortran order, which keeps samples apart",
            param=name,
            hint="save numpy.ascontiguousarray(array)",
        )
    return ArrayHeader(name, dtype, tuple(int(dim) for dim in shape))


def _take(stream: IO[bytes], header: ArrayHeader, start: int, count: int) -> np.ndarray:
    """`count` rows, in the machine's byte order."""
    wanted = count * header.row_bytes
    data = bytearray()
    with _damage_named(f"array {header.name!r} cannot be read at sample {start}"):
        while len(data) < wanted and (piece := stream.read(wanted - len(data))):
            data += piece
    if len(data) != wanted:
        raise InvalidDataset(f"array {header.name!r} ends before sample {start + count}", param=header.name)
    rows = np.frombuffer(data, header.dtype).reshape(count, *header.shape[1:])
    return rows.astype(header.dtype.newbyteorder("="), copy=False)


@contextmanager
def _damage_named(what: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, OSError) and not is_damage(error):
            raise
        raise InvalidDataset(f"{what}: {str(error)[:300]}", hint=_SAVE_AGAIN) from error
