"""`.tar` in WebDataset form: files of one sample lie one behind another and share their name up to its first dot.

Source: https://github.com/webdataset/webdataset (the format). Members are found once and then read by their place in the file.
"""

import io
import json
import os
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.lib import format as npy

from app.errors import InvalidDataset, InvalidModel
from app.text import plain
from workers.archive import PlainInfo
from workers.datasets.pixels import decoded
from workers.datasets.transforming import Value

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp")
NUMBERS = ("cls", "npy", "json")
TEXT = ("txt",)
MOST_MEMBERS = 20_000_000
MOST_MEMBER_BYTES = 256 * 1024 * 1024
_MOST_FIELDS = 100
_SHARED_FORM = "files of a sample lie one behind another: `0001.png`, `0001.cls`, `0002.png`, `0002.cls` …"
_PACK_AGAIN = "pack it again with tar, without compression or with gzip, bzip2 or xz"


class TarRecords:
    """See `records.Records`."""

    numbered = True

    def __init__(self, path: Path):
        """Raises InvalidDataset where it is no such archive, or a damaged one."""
        self._path = path
        self.sources, self._places = _index(path)

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(self._places)

    @property
    def usual(self) -> dict[str, str]:
        """The fields where the uploader named none: the image as `image`, `.cls` as the labels, arrays by their ending."""
        names = {
            ("image" if source in IMAGES else "labels" if source == "cls" else source): source
            for source in self.sources
            if source in IMAGES or source.rpartition(".")[2] in ("cls", "npy")
        }
        return names

    def read(self, index: int, sources: Sequence[str]) -> dict[str, Value]:
        """Some of a sample's files, decoded.

        Raises:
            ValueError: one is missing, or damaged.
        """
        return {source: _decoded(source, self._bytes(index, source)) for source in sources}

    def iterate(self, sources: Sequence[str]) -> Iterator[dict[str, Value]]:
        """All samples in order."""
        for index in range(self.count):
            yield self.read(index, sources)

    def where(self, index: int) -> str:
        """A sample as its files are called."""
        offset = int(self._places[index].max(axis=0)[0])
        head = os.pread(self._file, tarfile.BLOCKSIZE, offset - tarfile.BLOCKSIZE)
        try:
            name = tarfile.TarInfo.frombuf(head, "utf-8", "replace").name
        except tarfile.HeaderError:
            return f"sample {index}"
        return f"sample {index} ({plain(_key_of(name)[0], 200)})"

    def _bytes(self, index: int, source: str) -> bytes:
        offset, size = self._places[index, self.sources.index(source)].tolist()
        if offset < 0:
            raise ValueError(f"it has no file .{source}")
        data = os.pread(self._file, size, offset)
        if len(data) != size:
            raise ValueError(f"its file .{source} ends before its time")
        return data

    @cached_property
    def _file(self) -> int:
        return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            os.close(self._file)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_file"}


def _index(path: Path) -> tuple[list[str], np.ndarray]:
    """The endings of the first sample's files, and the place of each in each sample: [samples, endings, (offset, size)]."""
    places, key, sources = array("q"), None, list[str]()
    first = True
    for name, offset, size in _members(path):
        found, ending = _key_of(name)
        if found != key:
            first = key is None
            key = found
            if not first:
                places.extend([-1, 0] * len(sources))
        if first and ending not in sources:
            if len(sources) == _MOST_FIELDS:
                raise InvalidDataset(
                    f"a sample has more than {_MOST_FIELDS} files: {plain(found, 100)!r}", hint=_SHARED_FORM
                )
            sources.append(ending)
            places.extend([offset, size])
        elif ending in sources:
            row = len(places) - 2 * len(sources) + 2 * sources.index(ending)
            if places[row] >= 0:
                raise InvalidDataset(f"the archive holds {plain(name, 200)!r} twice", hint=_SHARED_FORM)
            places[row], places[row + 1] = offset, size
    if not sources:
        raise InvalidDataset("the archive holds no sample", hint=_SHARED_FORM)
    return sources, np.frombuffer(places, np.int64).reshape(-1, len(sources), 2)


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each file."""
    held = path.stat().st_size
    try:
        with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:", tarinfo=PlainInfo) as archive:
            count = 0
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all that it saw
                count += 1
                if count > MOST_MEMBERS:
                    raise InvalidDataset(f"the archive holds more than {MOST_MEMBERS} files")
                if member.isdir():
                    continue
                name = member.name
                if not member.isreg() or member.issparse():
                    raise InvalidDataset(
                        f"{plain(name, 200)!r} in the archive is a link, a device or a sparse file",
                        hint="pack files alone",
                    )
                if member.size > MOST_MEMBER_BYTES or member.offset_data + member.size > held:
                    raise InvalidDataset(
                        f"{plain(name, 200)!r} says that it has {member.size} bytes; the archive has {held} in all, "
                        f"{MOST_MEMBER_BYTES} are taken for one file",
                        hint=_PACK_AGAIN,
                    )
                if not PurePosixPath(name).name.startswith("."):
                    yield name, member.offset_data, member.size
            stream.seek(archive.offset)
            if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise InvalidDataset(f"the archive is damaged behind its file {count}", hint=_PACK_AGAIN)
    except (tarfile.TarError, InvalidModel, ValueError, EOFError, ArithmeticError, LookupError) as error:
        raise InvalidDataset(
            f"the archive cannot be read: {plain(str(error), 300)}", hint=_PACK_AGAIN
        ) from error


def _key_of(name: str) -> tuple[str, str]:
    """What a sample's files share, and what is left: all behind the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _decoded(source: str, data: bytes) -> Value:
    kind = source.rpartition(".")[2]
    try:
        if kind in IMAGES:
            return Value(decoded(data), channels_last=True)
        if kind == "cls":
            return Value(np.array(int(data), np.int64))
        if kind == "npy":
            return Value(_array(data))
        if kind == "json":
            return Value(_numbers_or_text(json.loads(data)))
        if kind in TEXT:
            return Value(np.array(data.decode("utf-8")))
    except (ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"its file .{source}: {str(error)[:300]}") from error
    raise ValueError(
        f"its file .{source} is of no kind that is read: {', '.join((*IMAGES, *NUMBERS, *TEXT))}"
    )


def _array(data: bytes) -> np.ndarray:
    stream = io.BytesIO(data)
    version = npy.read_magic(stream)
    reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if reader is None:
        raise ValueError(f"its version {version} of the .npy form is not read")
    try:
        shape, fortran, dtype = reader(stream)
    except (SyntaxError, MemoryError, TypeError, ArithmeticError) as error:
        raise ValueError(f"its header is damaged: {error}") from error
    if dtype.kind not in "fiub" or (fortran and len(shape) > 1):
        raise ValueError(f"it holds {dtype}, or is in Fortran order: save numbers, numpy.ascontiguousarray")
    rest = data[stream.tell() :]
    if min(shape, default=0) < 0 or len(rest) != int(
        np.prod([*map(int, shape), dtype.itemsize], dtype=object)
    ):
        raise ValueError("it ends before its time, or later")
    return np.frombuffer(rest, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _numbers_or_text(value: object) -> np.ndarray:
    found = np.array(value)
    if found.dtype.kind not in "fiub" and not isinstance(value, str):
        raise ValueError("it holds more than a number, a list of numbers, or a text")
    return found
