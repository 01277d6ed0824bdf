"""Unpacking uploaded archives: plain files below one folder, within limits that hold while writing."""

import bz2
import errno
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from app.errors import InvalidModel, PayloadTooLarge
from app.text import is_plain

CHUNK_BYTES = 1024 * 1024
_IGNORED_PARTS = {"__MACOSX", ".DS_Store"}
_MOST_PARTS = 32
_MOST_NAME_BYTES = 255
_MOST_PATH_BYTES = 1024
_MOST_HEADER_BYTES = 1024 * 1024  # of a tar's long names and extended attributes
_TAR_ALLOWANCE_BYTES = 16 * 1024  # a member's headers and padding
_LOCAL_HEADER_BYTES = 30  # of a zip's member, without its name
_ZIP_HEADS = (b"PK\x03\x04", b"PK\x05\x06")
_COMPRESSED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}


class Readable(Protocol):
    """What bytes come out of."""

    def read(self, size: int = -1, /) -> bytes: ...


def is_zip(file: Path) -> bool:
    """Whether the file begins like a `.zip`."""
    return _head(file).startswith(_ZIP_HEADS)


def is_archive(file: Path) -> bool:
    """Whether the file is a `.zip`, or a `.tar`, or compressed like one. Its first header alone is read."""
    head = _head(file)
    return head.startswith((*_ZIP_HEADS, *_COMPRESSED)) or _is_tar_header(head)


def unpack(file: Path, out: Path, max_bytes: int, max_files: int) -> None:
    """Unpack a `.zip` or `.tar` (plain, gzip, bzip2, xz) below `out`; a single common top folder is taken away.

    Raises:
        InvalidModel: the archive is damaged, or holds links, devices, absolute paths, `..` or encrypted members.
        PayloadTooLarge: it passes a limit.
    """
    out.mkdir(parents=True)
    unpacker = Unpacker(out, max_bytes, max_files)
    with damage_named():
        members = zip_members(file) if is_zip(file) else tar_members(file, max_bytes, max_files)
        for name, stream in members:
            unpacker.add(name, stream)
    strip_top_folder(out)


class Unpacker:
    """Writes members below `out`, holding names, number and total size to the limits."""

    def __init__(self, out: Path, max_bytes: int, max_files: int):
        self._out = out
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._left = max_bytes
        self._members = 0
        self._seen: set[str] = set()

    def add(self, name: str, stream: Readable | None) -> None:
        """Write one member; a folder, which has no stream, only counts.

        Raises:
            InvalidModel: the name leaves the folder, is unusable or comes twice.
            PayloadTooLarge: too many members, or too many bytes once unpacked.
        """
        self._members += 1
        if self._members > self._max_files:
            raise PayloadTooLarge(
                f"the archive holds more than {self._max_files} files and folders",
                hint="raise BURNISH_MAX_ARCHIVE_FILES if this is a real model",
            )
        parts = safe_parts(name)
        if stream is None or not parts or _IGNORED_PARTS & set(parts):
            return
        plain = "/".join(parts)
        if plain in self._seen:
            raise InvalidModel(f"the archive holds {plain!r} twice")
        self._seen.add(plain)
        target = self._out / plain
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as sink:
                self._copy(stream, sink)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise InvalidModel(f"{plain!r} in the archive is both a file and a folder") from error

    def _copy(self, stream: Readable, sink: IO[bytes]) -> None:
        while chunk := stream.read(CHUNK_BYTES):
            self._left -= len(chunk)
            if self._left < 0:
                raise too_large(self._max_bytes)
            sink.write(chunk)


@contextmanager
def open_zip(file: Path) -> Iterator[zipfile.ZipFile]:
    """A zip whose members lie one behind another, each in bytes of its own.

    Members that share bytes are how a small file unpacks to petabytes (D. Fifield, A better zip bomb, WOOT 2019).

    Raises:
        zipfile.BadZipFile: it is no zip, or members share bytes.
    """
    if not zipfile.is_zipfile(file):
        raise zipfile.BadZipFile(
            "it has no list of members at its end: it was cut short on its way, or is no zip"
        )
    with zipfile.ZipFile(file) as archive:
        members = sorted(archive.infolist(), key=lambda info: info.header_offset)
        starts = [*(info.header_offset for info in members[1:]), archive.start_dir]
        for info, following in zip(members, starts, strict=False):
            if info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size > following:
                raise zipfile.BadZipFile(f"{info.filename!r} shares bytes with what lies behind it")
        yield archive


def zip_names(file: Path) -> list[str]:
    """The names of a zip's members; none where the file is no zip, or a damaged one."""
    if not is_zip(file):
        return []
    try:
        with damage_named(), open_zip(file) as archive:
            return archive.namelist()
    except InvalidModel:
        return []


def zip_members(file: Path) -> Iterator[tuple[str, Readable | None]]:
    """Every member of a zip; a file with its bytes as a stream."""
    with open_zip(file) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise InvalidModel(f"{info.filename!r} in the archive is a link or a device")
            if info.flag_bits & 0x1:
                raise InvalidModel(f"{info.filename!r} in the archive is encrypted")
            if info.is_dir():
                yield info.filename, None
            else:
                with archive.open(info) as stream:
                    yield info.filename, stream


def tar_members(file: Path, max_bytes: int, max_files: int) -> Iterator[tuple[str, Readable | None]]:
    """Every member of a tar; a file with its bytes as a stream. Read to the end, so that checksums are verified."""
    with file.open("rb") as raw:
        head = raw.read(8)
        raw.seek(0)
        opener = next((opener for magic, opener in _COMPRESSED.items() if head.startswith(magic)), None)
        opened: Readable = raw if opener is None else opener(raw)
        stream = _Counted(opened, max_bytes + max_files * _TAR_ALLOWANCE_BYTES, max_bytes)
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=PlainInfo) as archive:  # type: ignore[call-overload]
            for member in archive:
                if not (member.isdir() or member.isreg()):
                    raise InvalidModel(f"{member.name!r} in the archive is a link or a device")
                if member.issparse():
                    raise InvalidModel(
                        f"{member.name!r} in the archive is a sparse file", hint="pack without --sparse"
                    )
                yield member.name, archive.extractfile(member) if member.isreg() else None
        while stream.read(CHUNK_BYTES):
            pass


def expand(file: Path, out: Path, max_bytes: int) -> bool:
    """Write what a file was compressed from (gzip, bzip2, xz) to `out`. False: it is not compressed, nothing was written.

    Raises:
        InvalidModel: it is damaged.
        PayloadTooLarge: it expands to more than `max_bytes`.
    """
    head = _head(file)
    opener = next((opener for magic, opener in _COMPRESSED.items() if head.startswith(magic)), None)
    if opener is None:
        return False
    with damage_named(), file.open("rb") as raw, out.open("xb") as sink:
        stream = _Counted(opener(raw), max_bytes, max_bytes)
        while chunk := stream.read(CHUNK_BYTES):
            sink.write(chunk)
    return True


def safe_parts(name: str) -> list[str]:
    """The parts of a member's path.

    Raises:
        InvalidModel: it is absolute, goes up, is too long or too deep, or holds control characters or backslashes.
    """
    if "\\" in name or not is_plain(name):
        raise InvalidModel(
            f"the archive holds a file with an unusable name: {name[:100]!r}",
            hint="rename it: letters, digits, dots, dashes; folders set apart by /",
        )
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
        raise InvalidModel(
            f"{name[:100]!r} in the archive points outside of it", hint="pack with relative paths"
        )
    parts = [part for part in path.parts if part != "."]
    if (
        len(parts) > _MOST_PARTS
        or len(name.encode()) > _MOST_PATH_BYTES
        or any(len(part.encode()) > _MOST_NAME_BYTES for part in parts)
    ):
        raise InvalidModel(f"{name[:100]!r}… in the archive is too long a path", hint="pack with short names")
    return parts


def strip_top_folder(root: Path) -> None:
    """Where everything lies in one folder, take that folder away, again and again."""
    while len(entries := list(root.iterdir())) == 1 and entries[0].is_dir():
        folder = entries[0].rename(root / "\x01top")  # a name that no member can have
        for entry in folder.iterdir():
            entry.rename(root / entry.name)
        folder.rmdir()


def too_large(max_bytes: int) -> PayloadTooLarge:
    """The error for an archive that holds more than the limit."""
    return PayloadTooLarge(
        f"the archive unpacks to more than {max_bytes} bytes",
        hint="raise BURNISH_MAX_ARCHIVE_BYTES if this is real data",
    )


def is_damage(error: OSError) -> bool:
    """Whether an error is the archive's (no number, or a position that cannot be), not the disk's."""
    return error.errno in (None, errno.EINVAL)


@contextmanager
def damage_named() -> Iterator[None]:
    """What the libraries raise on damaged archives becomes one error.

    Raises:
        InvalidModel: the archive cannot be read.
    """
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        EOFError,
        ValueError,
        ArithmeticError,
        LookupError,
        NotImplementedError,
        RecursionError,
        OSError,
    ) as error:
        if isinstance(error, OSError) and not is_damage(error):
            raise
        raise InvalidModel(
            f"the archive cannot be read: {str(error)[:300]}", hint="pack it again and compare checksums"
        ) from error


class _Counted:
    """A stream that gives no more than a number of bytes, however well they were compressed."""

    def __init__(self, stream: Readable, most: int, told: int):
        self._stream = stream
        self._left = most
        self._told = told

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise too_large(self._told)
        return data


class PlainInfo(tarfile.TarInfo):
    """A header whose extensions, which tarfile reads whole, are short."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "PlainInfo":
        info = super().frombuf(buf, encoding, errors)
        if not (info.isreg() or info.isdir()) and info.size > _MOST_HEADER_BYTES:
            raise InvalidModel("a member of the archive has an oversized header")
        return info


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(tarfile.BLOCKSIZE)


def _is_tar_header(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True
