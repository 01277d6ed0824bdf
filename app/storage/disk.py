"""The store as a directory that API and workers share: blobs under `ab/abcd…`, whole or not at all."""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from app.errors import Conflict, DiskFull, NotFound
from app.storage.blobs import (
    ABANDONED_SECONDS,
    CHUNK_BYTES,
    Blob,
    Storage,
    known_digest,
    known_upload,
    too_large,
)
from app.storage.writeback import Writeback


class DiskBlobWriter:
    """Writes into a temporary file beside the blobs, and renames it to its digest at the end."""

    def __init__(self, storage: "DiskStorage", limit_bytes: int | None):
        self._storage = storage
        self._limit = limit_bytes
        self._hash = hashlib.sha256()
        self._file = tempfile.NamedTemporaryFile(dir=storage.incoming, delete=False)  # noqa: SIM115 - closed in commit or abort
        self._writeback = Writeback(self._file.fileno(), 0)
        self.size_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes.

        Raises:
            PayloadTooLarge: the limit is passed.
            DiskFull: the disk has no space left.
        """
        self.size_bytes += len(data)
        if self._limit is not None and self.size_bytes > self._limit:
            raise too_large(self._limit)
        self._hash.update(data)
        with disk_errors():
            self._file.write(data)
        self._writeback.wrote(len(data))

    def commit(self) -> Blob:
        """Make the bytes durable under their digest."""
        with disk_errors():
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        digest = self._hash.hexdigest()
        self._storage.adopt(Path(self._file.name), digest)
        return Blob(digest, self.size_bytes)

    def abort(self) -> None:
        """Forget the bytes."""
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)


class DiskPartialWriter:
    """Appends to a partial's file, whose lock it holds until it is closed."""

    def __init__(self, file: FileIO, offset: int):
        self._file = file
        self._writeback = Writeback(file.fileno(), offset)

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes. Raises DiskFull; what fitted is kept."""
        with disk_errors():
            while data:
                size = self._file.write(data)
                self._writeback.wrote(size)
                data = memoryview(data)[size:]

    def close(self) -> int:
        """Make durable what was written; the partial's size in bytes. Raises DiskFull."""
        try:
            with disk_errors():
                os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size
        finally:
            self._file.close()


class DiskPartial:
    """One file that grows; who appends or commits holds its lock."""

    def __init__(self, storage: "DiskStorage", id: str):
        self._storage = storage
        self._path = storage.growing / known_upload(id)

    def size(self) -> int:
        """The bytes that are there."""
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, offset: int) -> DiskPartialWriter:
        """A writer at the end, which must be at `offset`. Raises Conflict, DiskFull."""
        file = self._locked()
        size = os.fstat(file.fileno()).st_size
        if size != offset:
            file.close()
            raise Conflict(f"the upload has {size} bytes, not {offset}", hint="go on from where it is")
        return DiskPartialWriter(file, offset)

    def commit(self, digest: str | None = None) -> Blob:
        """Make the blob; `digest`: its SHA-256, where the caller knows it. Raises Conflict where somebody appends."""
        with self._locked() as file, disk_errors():
            if digest is None:
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
            self._storage.adopt(self._path, digest)
        return Blob(digest, size)

    def abort(self) -> None:
        """Forget the bytes."""
        self._path.unlink(missing_ok=True)

    def _locked(self) -> FileIO:
        with suppress(FileNotFoundError):
            self._path.chmod(0o600)  # a commit that died had made it read-only already
        with disk_errors():
            file = open(self._path, "a+b", buffering=0)  # noqa: SIM115 - the caller closes it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.path.samestat(os.fstat(file.fileno()), os.stat(self._path))  # noqa: PTH116
        except (BlockingIOError, FileNotFoundError):
            same = False
        if not same:  # another request holds it, or has just committed or aborted it
            file.close()
            raise Conflict("another request writes to this upload", hint="ask for its offset and go on")
        return file


class DiskStorage(Storage):
    """Blobs on a file system that API and workers share."""

    def __init__(self, root: Path):
        self.root = root
        self.incoming = root / "incoming"
        self.growing = root / "partial"
        for folder in (self.incoming, self.growing):
            folder.mkdir(parents=True, exist_ok=True)

    def writer(self, limit_bytes: int | None = None) -> DiskBlobWriter:
        """A writer for one new blob."""
        with disk_errors():
            return DiskBlobWriter(self, limit_bytes)

    def materialize_file(self, digest: str, target: Path) -> Path:
        """Lay one blob at `target`, as a link where the file system allows it; it must not be written to."""
        return link_or_copy(self.path(digest), target)

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

    def stat(self, digest: str) -> tuple[int, float] | None:
        """A blob's size in bytes and the seconds since it was last stored; None where there is none."""
        try:
            found = self._blob_path(digest).stat()
        except FileNotFoundError:
            return None
        return found.st_size, time.time() - found.st_mtime

    def delete(self, digest: str, older_than_seconds: float = 0.0) -> int | None:
        """Forget a blob; its size, or None where there is none, or where it was stored again so lately.

        The file is moved aside before its age is read again: whoever stores the same bytes meanwhile loses nothing.
        """
        path = self._blob_path(digest)
        aside = self.incoming / f"{digest}.{uuid.uuid4().hex}"
        try:
            if _age_seconds(path) < older_than_seconds:
                return None
            path.replace(aside)
        except FileNotFoundError:
            return None
        if _age_seconds(aside) < older_than_seconds:
            aside.replace(path)
            return None
        size = aside.stat().st_size
        aside.unlink(missing_ok=True)
        return size

    def digests(self) -> Iterator[str]:
        """Every stored blob."""
        for folder in self.root.glob("[0-9a-f][0-9a-f]"):
            for path in folder.iterdir():
                yield path.name

    def partial(self, id: str) -> DiskPartial:
        """The partial of an upload (`upl_…`). Raises NotFound where that cannot be an id."""
        return DiskPartial(self, id)

    def partials(self) -> Iterator[tuple[str, float]]:
        """The id of every partial, and the seconds since it last grew."""
        for path in self.growing.iterdir():
            try:
                yield path.name, _age_seconds(path)
            except FileNotFoundError:
                continue

    def sweep(self, older_than_seconds: float = ABANDONED_SECONDS) -> int:
        """Remove files that writers left behind that died; the bytes that this freed."""
        freed = 0
        for path in self.incoming.iterdir():
            try:
                if _age_seconds(path) >= older_than_seconds:
                    freed += path.stat().st_size
                    path.unlink()
            except FileNotFoundError:
                continue
        return freed

    def check(self) -> None:
        """Raises OSError where the store cannot be written."""
        with tempfile.NamedTemporaryFile(dir=self.incoming):
            pass

    def adopt(self, file: Path, digest: str) -> None:
        """Make a durable file of this file system the blob of that digest; only writers call this."""
        target = self._blob_path(digest)
        target.parent.mkdir(exist_ok=True)
        file.chmod(0o444)
        os.utime(file)  # the age of a blob is the time since it was last stored
        file.replace(target)
        _fsync_directory(target.parent)

    def _blob_path(self, digest: str) -> Path:
        return self.root / digest[:2] / known_digest(digest)


@contextmanager
def disk_errors() -> Iterator[None]:
    """A full disk raises DiskFull in place of OSError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("the disk has no space left", hint="free space or run `burnish gc`") from error
        raise


def link_or_copy(source: Path, target: Path) -> Path:
    """Lay a file at `target`, as a hard link where the file system allows it. Raises DiskFull."""
    with disk_errors():
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                raise
            shutil.copyfile(source, target)
    return target


def _age_seconds(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _fsync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
