"""Blobs by digest. A tree of files is a blob too: its text is `sha256sum`'s, so its digest covers sorted (path, SHA-256)."""

import errno
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from app.config import get_settings
from app.errors import DiskFull, NotFound, PayloadTooLarge

CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Blob:
    """What was stored: the SHA-256 in hex, and the size in bytes."""

    digest: str
    size_bytes: int


@dataclass(frozen=True)
class TreeFile:
    """One file of a tree: its POSIX path inside the tree, and the digest of its bytes."""

    path: str
    digest: str


class BlobWriter(Protocol):
    """Takes bytes as they come, hashing on the way; `commit` makes the blob, `abort` forgets it."""

    size_bytes: int

    def write(self, data: bytes | memoryview) -> None: ...
    def commit(self) -> Blob: ...
    def abort(self) -> None: ...


class DiskBlobWriter:
    """Writes into a temporary file beside the blobs, and renames it to its digest at the end."""

    def __init__(self, storage: "DiskStorage", limit_bytes: int | None):
        self._storage = storage
        self._limit = limit_bytes
        self._hash = hashlib.sha256()
        self._file = tempfile.NamedTemporaryFile(dir=storage.incoming, delete=False)  # noqa: SIM115 - closed in commit or abort
        self.size_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            PayloadTooLarge: the limit is passed.
            DiskFull: the disk has no space left.
        """
        self.size_bytes += len(data)
        if self._limit is not None and self.size_bytes > self._limit:
            raise PayloadTooLarge(
                f"the upload is larger than {self._limit} bytes",
                hint="upload a smaller file, or raise BURNISH_MAX_UPLOAD_BYTES",
            )
        self._hash.update(data)
        with _disk_errors():
            self._file.write(data)

    def commit(self) -> Blob:
        """Make the bytes durable under their digest."""
        with _disk_errors():
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        digest = self._hash.hexdigest()
        self._storage._adopt(Path(self._file.name), digest)
        return Blob(digest, self.size_bytes)

    def abort(self) -> None:
        """Forget the bytes."""
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)


class DiskStorage:
    """Blobs on a file system that API and workers share."""

    def __init__(self, root: Path):
        self.root = root
        self.incoming = root / "incoming"
        self.incoming.mkdir(parents=True, exist_ok=True)

    def writer(self, limit_bytes: int | None = None) -> DiskBlobWriter:
        """A writer for one new blob."""
        with _disk_errors():
            return DiskBlobWriter(self, limit_bytes)

    def put(self, stream: IO[bytes] | Iterable[bytes], limit_bytes: int | None = None) -> Blob:
        """Store a stream (a file object, or chunks of bytes) in constant memory.

        Raises:
            PayloadTooLarge: more than `limit_bytes`.
            DiskFull: no space left.
        """
        chunks = iter(lambda: stream.read(CHUNK_BYTES), b"") if hasattr(stream, "read") else stream
        writer = self.writer(limit_bytes)
        try:
            for chunk in chunks:
                writer.write(chunk)
            return writer.commit()
        except BaseException:
            writer.abort()
            raise

    def put_file(self, path: Path) -> Blob:
        """Store a file's bytes."""
        with path.open("rb") as file:
            return self.put(file)

    def put_tree(self, files: Path) -> Blob:
        """Store every regular file below a directory; the digest names the tree, the size is the sum of its files'.

        Raises:
            ValueError: the directory is empty, or holds something that is neither file nor directory, or a line break in a name.
        """
        entries: list[TreeFile] = []
        total = 0
        for path in sorted(files.rglob("*")):
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise ValueError(f"{path.relative_to(files)} is neither a file nor a directory")
            if path.name.splitlines() != [path.name]:
                raise ValueError(f"{path.name!r} would break the lines of the tree's text")
            if path.is_file():
                blob = self.put_file(path)
                total += blob.size_bytes
                entries.append(TreeFile(path.relative_to(files).as_posix(), blob.digest))
        if not entries:
            raise ValueError("an empty directory makes no tree")
        return Blob(self.put([tree_text(entries).encode()]).digest, total)

    def tree(self, digest: str) -> list[TreeFile]:
        """The files of a tree.

        Raises:
            NotFound: there is no such tree.
        """
        return parse_tree(self.path(digest).read_text())

    def materialize(self, digest: str, into: Path) -> Path:
        """Lay a tree's files below `into`, as links where the file system allows it; they must not be written to."""
        for entry in self.tree(digest):
            target = into / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            self.materialize_file(entry.digest, target)
        return into

    def materialize_file(self, digest: str, target: Path) -> Path:
        """Lay one blob at `target`, as a link where the file system allows it; it must not be written to."""
        source = self.path(digest)
        with _disk_errors():
            try:
                os.link(source, target)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                    raise
                shutil.copyfile(source, target)
        return target

    def open(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to and without `end`, in chunks."""
        with self.path(digest).open("rb") as file:
            file.seek(start)
            left = None if end is None else end - start
            while left is None or left > 0:
                chunk = file.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
                if not chunk:
                    return
                if left is not None:
                    left -= len(chunk)
                yield chunk

    def path(self, digest: str) -> Path:
        """The file that holds a blob.

        Raises:
            NotFound: there is none.
        """
        path = self._blob_path(digest)
        if not path.is_file():
            raise NotFound(f"no stored file has the digest {digest}")
        return path

    def exists(self, digest: str) -> bool:
        """Whether a blob is stored."""
        return self._blob_path(digest).is_file()

    def delete(self, digest: str, older_than_seconds: float = 0.0) -> int | None:
        """Forget a blob; its size, or None where there is none, or where it was stored again so lately.

        The file is moved aside before its age is read: whoever stores the same bytes meanwhile loses nothing.
        """
        path = self._blob_path(digest)
        aside = self.incoming / f"{digest}.{uuid.uuid4().hex}"
        try:
            path.replace(aside)
        except FileNotFoundError:
            return None
        found = aside.stat()
        if time.time() - found.st_mtime < older_than_seconds:
            aside.replace(path)
            return None
        aside.unlink()
        return found.st_size

    def digests(self) -> Iterator[str]:
        """Every stored blob."""
        for folder in self.root.glob("[0-9a-f][0-9a-f]"):
            for path in folder.iterdir():
                yield path.name

    def check(self) -> None:
        """Raises OSError where the store cannot be written."""
        with tempfile.NamedTemporaryFile(dir=self.incoming):
            pass

    def _blob_path(self, digest: str) -> Path:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise NotFound("that is not a digest")
        return self.root / digest[:2] / digest

    def _adopt(self, file: Path, digest: str) -> None:
        target = self._blob_path(digest)
        target.parent.mkdir(exist_ok=True)
        file.chmod(0o444)
        os.utime(file)  # the age of a blob is the time since it was last stored
        file.replace(target)
        _fsync_directory(target.parent)


def tree_text(entries: Iterable[TreeFile]) -> str:
    """The text of a tree: `sha256sum`'s lines, sorted by path."""
    return "".join(f"{entry.digest}  {entry.path}\n" for entry in sorted(entries, key=lambda e: e.path))


def parse_tree(text: str) -> list[TreeFile]:
    """The files that a tree's text names.

    Raises:
        ValueError: the text is no tree's, or a path leaves the tree.
    """
    entries = []
    for line in text.splitlines():
        digest, separator, path = line.partition("  ")
        pure = PurePosixPath(path)
        if not separator or len(digest) != 64 or pure.is_absolute() or ".." in pure.parts:
            raise ValueError("that is not a tree")
        entries.append(TreeFile(path, digest))
    return entries


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("the disk has no space left", hint="free space or run `burnish gc`") from error
        raise


def _fsync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@lru_cache
def get_storage() -> DiskStorage:
    """The store of this process."""
    return DiskStorage(get_settings().blobs_path)
