"""Unpacking uploaded archives: plain files below one folder, within limits that hold while writing."""

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from app.errors import InvalidModel, PayloadTooLarge

CHUNK_BYTES = 1024 * 1024
_IGNORED_PARTS = {"__MACOSX", ".DS_Store"}


class Unpacker:
    """Writes members below `out`, holding names, number and total size to the limits."""

    def __init__(self, out: Path, max_bytes: int, max_files: int):
        self._out = out
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._left = max_bytes
        self._seen: set[str] = set()

    def add(self, name: str, stream: IO[bytes]) -> None:
        """Write one member.

        Raises:
            InvalidModel: the name leaves the folder, holds control characters or comes twice.
            PayloadTooLarge: too many files, or too many bytes once unpacked.
        """
        parts = safe_parts(name)
        if not parts or _IGNORED_PARTS & set(parts):
            return
        plain = "/".join(parts)
        if plain in self._seen:
            raise InvalidModel(f"the archive holds {plain!r} twice")
        self._seen.add(plain)
        if len(self._seen) > self._max_files:
            raise PayloadTooLarge(f"the archive holds more than {self._max_files} files")
        target = self._out / plain
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as sink:
                while chunk := stream.read(CHUNK_BYTES):
                    self._left -= len(chunk)
                    if self._left < 0:
                        raise PayloadTooLarge(
                            f"the archive unpacks to more than {self._max_bytes} bytes",
                            hint="raise BURNISH_MAX_ARCHIVE_BYTES if this is a real model",
                        )
                    sink.write(chunk)
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidModel(f"{plain!r} in the archive is both a file and a folder") from error


def unpack(file: Path, out: Path, max_bytes: int, max_files: int) -> None:
    """Unpack a `.zip` or `.tar` (plain, gzip, bzip2, xz) below `out`; a single common top folder is taken away.

    Raises:
        InvalidModel: the archive is damaged, or holds links, devices, absolute paths, `..` or encrypted members.
        PayloadTooLarge: it passes a limit.
    """
    out.mkdir(parents=True)
    unpacker = Unpacker(out, max_bytes, max_files)
    with _damage_named():
        members = zip_members(file) if zipfile.is_zipfile(file) else tar_members(file)
        for name, stream in members:
            unpacker.add(name, stream)
    strip_top_folder(out)


def zip_members(file: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Every file of a zip with its bytes as a stream."""
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind and not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise InvalidModel(f"{info.filename!r} in the archive is a link or a device")
            if info.flag_bits & 0x1:
                raise InvalidModel(f"{info.filename!r} in the archive is encrypted")
            safe_parts(info.filename)
            if not info.is_dir():
                with archive.open(info) as stream:
                    yield info.filename, stream


def tar_members(file: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Every file of a tar with its bytes as a stream."""
    with tarfile.open(file, "r:*") as archive:
        for member in archive:
            safe_parts(member.name)
            if member.isdir():
                continue
            if not member.isreg():
                raise InvalidModel(f"{member.name!r} in the archive is a link or a device")
            stream = archive.extractfile(member)
            assert stream is not None  # regular files have one
            yield member.name, stream


def safe_parts(name: str) -> list[str]:
    """The parts of a member's path.

    Raises:
        InvalidModel: it is absolute, goes up, or holds control characters or backslashes.
    """
    if "\\" in name or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise InvalidModel(f"the archive holds a file with an unusable name: {name!r}")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or name[1:2] == ":":
        raise InvalidModel(f"{name!r} in the archive points outside of it", hint="pack with relative paths")
    return [part for part in path.parts if part != "."]


def strip_top_folder(root: Path) -> None:
    """Where everything lies in one folder, take that folder away, again and again."""
    while len(entries := list(root.iterdir())) == 1 and entries[0].is_dir():
        folder = entries[0].rename(root / "\x01top")  # a name that no member can have
        for entry in folder.iterdir():
            entry.rename(root / entry.name)
        folder.rmdir()


@contextmanager
def _damage_named() -> Iterator[None]:
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        UnicodeError,
        NotImplementedError,
    ) as error:
        raise InvalidModel(
            f"the archive cannot be read: {error}", hint="pack it again and compare checksums"
        ) from error
