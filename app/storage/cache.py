"""Files of the object store that a worker keeps on its disk, by digest: bounded, checked, and shared by processes."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import structlog

from app.errors import DiskFull
from app.storage.disk import link_or_copy

log = structlog.get_logger(__name__)


class Cache:
    """A directory of blobs. Files come in and leave as hard links where that can be, and whole or not at all."""

    def __init__(self, folder: Path, limit_bytes: int):
        """`limit_bytes`: what it may hold; 0: nothing."""
        self._folder = folder
        self._limit = limit_bytes

    def take(self, digest: str, target: Path) -> bool:
        """Lay a blob at `target`; False where it is not here, or is not what it should be (and then is here no longer)."""
        kept = self._folder / digest
        if not kept.is_file():
            return False
        try:
            link_or_copy(kept, target)
            os.utime(kept)
        except FileNotFoundError:  # another process has just made room
            target.unlink(missing_ok=True)
            return False
        if has_digest(target, digest):
            return True
        log.warning("cached_file_damaged", digest=digest)
        target.unlink()
        kept.unlink(missing_ok=True)
        return False

    def keep(self, digest: str, file: Path) -> None:
        """Keep a blob that was just fetched; the longest unused make room. That it cannot be kept is no error."""
        size = file.stat().st_size
        if size > self._limit:
            return
        coming = self._folder / f"{digest}.{uuid.uuid4().hex}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(size)
            link_or_copy(file, coming)
            coming.replace(self._folder / digest)
        except (DiskFull, OSError) as error:
            log.warning("cache_failed", error=str(error))
        finally:
            with suppress(OSError):
                coming.unlink(missing_ok=True)

    def _make_room(self, needed: int) -> None:
        found = sorted(self._files())
        held = sum(size for _, size, _ in found)
        for _, size, path in found:
            if held + needed <= self._limit:
                return
            path.unlink(missing_ok=True)
            held -= size

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """When each was last used, its size, and where it is."""
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                found = path.stat()
                yield found.st_mtime, found.st_size, path


def has_digest(path: Path, digest: str) -> bool:
    """Whether a file's bytes have that SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == digest
