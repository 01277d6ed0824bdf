"""What a store is: blobs by digest, writers, and bytes that arrive over several requests. Disk and S3 keep the same promises."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from app.errors import NotFound, PayloadTooLarge
from app.storage.trees import TreeFile, open_regular, parse_tree, regular_files, tree_text

CHUNK_BYTES = 1024 * 1024
ABANDONED_SECONDS = 86_400.0  # nobody writes to a blob for longer than this without being done


@dataclass(frozen=True)
class Blob:
    """What was stored: the SHA-256 in hex, and the size in bytes."""

    digest: str
    size_bytes: int


class BlobWriter(Protocol):
    """Takes bytes as they come, hashing on the way; `commit` makes the blob, `abort` forgets it."""

    size_bytes: int

    def write(self, data: bytes | memoryview) -> None: ...
    def commit(self) -> Blob: ...
    def abort(self) -> None: ...


class PartialWriter(Protocol):
    """Appends to a partial; `close` makes durable what was written, also after an error, and gives the partial's size."""

    def write(self, data: bytes | memoryview) -> None: ...
    def close(self) -> int: ...


class Partial(Protocol):
    """The bytes of one blob that arrive over several requests, at any process that shares the store.

    `append` raises Conflict where the offset is not `size()`, or where somebody else is appending. `commit` hashes,
    if the caller has not done so on the way, makes the blob and forgets the partial; `abort` forgets the bytes, and may be called again.
    """

    def size(self) -> int: ...
    def append(self, offset: int) -> PartialWriter: ...
    def commit(self, digest: str | None = None) -> Blob: ...
    def abort(self) -> None: ...


class Storage(ABC):
    """Blobs by digest. A tree of files is a blob too: its text is `sha256sum`'s, so its digest covers (path, SHA-256)."""

    @abstractmethod
    def writer(self, limit_bytes: int | None = None) -> BlobWriter:
        """A writer for one new blob; it raises PayloadTooLarge once more than the limit is written."""

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
        """Store a regular file's bytes; ValueError where it is something else, or a link on the way to it."""
        with open_regular(path) as file:
            return self.put(file)

    def put_tree(self, files: Path) -> Blob:
        """Store every regular file below a directory; the digest names the tree, the size is the sum of its files'.

        Raises:
            ValueError: the directory is empty, or holds something that is neither file nor directory, or a line break in a name.
        """
        entries: list[TreeFile] = []
        total = 0
        for path in regular_files(files):
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
        return parse_tree(b"".join(self.open(digest)).decode())

    def materialize(self, digest: str, into: Path) -> Path:
        """Lay a tree's files below `into`, as links where that can be; they must not be written to.

        Raises:
            NotFound: the tree or a file of it is gone.
            DiskFull: no space left.
        """
        for entry in self.tree(digest):
            target = into / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            self.materialize_file(entry.digest, target)
        return into

    @abstractmethod
    def materialize_file(self, digest: str, target: Path) -> Path:
        """Lay one blob at `target`, as a link where that can be; it must not be written to. Raises NotFound, DiskFull."""

    @abstractmethod
    def open(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to and without `end`, in chunks; NotFound comes with the first."""

    @abstractmethod
    def exists(self, digest: str) -> bool:
        """Whether a blob is stored."""

    @abstractmethod
    def stat(self, digest: str) -> tuple[int, float] | None:
        """A blob's size in bytes and the seconds since it was last stored; None where there is none."""

    @abstractmethod
    def delete(self, digest: str, older_than_seconds: float = 0.0) -> int | None:
        """Forget a blob; its size, or None where there is none, or where it was stored again so lately."""

    @abstractmethod
    def digests(self) -> Iterator[str]:
        """Every stored blob."""

    @abstractmethod
    def partial(self, id: str) -> Partial:
        """The partial of an upload (`upl_…`), whether bytes of it are there or not."""

    @abstractmethod
    def partials(self) -> Iterator[tuple[str, float]]:
        """The id of every partial that holds bytes, and the seconds since they last grew."""

    @abstractmethod
    def sweep(self, older_than_seconds: float = ABANDONED_SECONDS) -> int:
        """Remove what writers left behind that died; the bytes that this freed."""

    @abstractmethod
    def check(self) -> None:
        """Raises an error where the store cannot be written."""

    def link(self, digest: str, media_type: str, disposition: str) -> str | None:
        """An address that gives the blob for a while to whoever knows it, None where the store gives none.

        Its answer carries the `Content-Type` and the `Content-Disposition` that are given.
        """
        return None


def known_digest(text: str) -> str:
    """The text, where it is a SHA-256 in hex.

    Raises:
        NotFound: it is not.
    """
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise NotFound("that is not a digest")
    return text


def known_upload(text: str) -> str:
    """The text, where it can be an upload's id: nothing that means something in a path.

    Raises:
        NotFound: it is not.
    """
    if not text.startswith("upl_") or not text.removeprefix("upl_").isalnum() or not text.isascii():
        raise NotFound("that is not an upload")
    return text


def too_large(limit_bytes: int) -> PayloadTooLarge:
    """The error of a writer whose limit is passed."""
    return PayloadTooLarge(
        f"the upload is larger than {limit_bytes} bytes",
        hint="upload a smaller file, or raise BURNISH_MAX_UPLOAD_BYTES",
    )
