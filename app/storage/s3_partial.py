"""Bytes that arrive over several requests, in S3: an object a piece, `partial/ID/OFFSET`, all of one size but the last.

A piece is written only where none is yet, and the last one replaced only as it was read: a slow request that another has
overtaken changes nothing (S3's conditional writes). The blob is made by copying the pieces within S3.
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future

from app.errors import Conflict
from app.storage.blobs import Blob, known_upload
from app.storage.bucket import Bucket, Stored, cut, settle

AHEAD = 2  # pieces that are read while one is hashed


class S3PartialWriter:
    """Writes pieces behind one another, the next one being filled while the last one leaves."""

    def __init__(self, bucket: Bucket, folder: str, offset: int, last: Stored | None):
        self._bucket = bucket
        self._folder = folder
        self._start = offset - (last.size_bytes if last else 0)  # of the piece that is being filled
        self._buffer = bytearray(b"".join(bucket.read(last.key)) if last else b"")
        self._written = len(self._buffer)  # how much of it is stored already
        self._replaces = last.etag if last else None
        self._leaving: Future[str] | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes. Raises Conflict where another request was faster, DiskFull, Unavailable."""
        self._buffer += data
        while len(self._buffer) >= self._bucket.part_bytes:
            rest = cut(self._buffer, self._bucket.part_bytes)
            self._send()
            self._start += self._bucket.part_bytes
            self._buffer, self._written, self._replaces = rest, 0, None

    def close(self) -> int:
        """Make durable what was written; the partial's size in bytes. Raises as `write` does."""
        if len(self._buffer) > self._written:
            self._send()
        self._settle()
        return self._start + len(self._buffer)

    def _send(self) -> None:
        self._settle()  # a piece is stored after the one before it: what is there has no gaps
        condition = {"IfMatch": self._replaces} if self._replaces else {"IfNoneMatch": "*"}
        key = f"{self._folder}{self._start:020d}"
        self._leaving = self._bucket.pool.submit(self._bucket.put, key, self._buffer, **condition)

    def _settle(self) -> None:
        if self._leaving is not None:
            self._leaving.result()


class S3Partial:
    """The pieces of one upload."""

    def __init__(self, bucket: Bucket, partials: str, blobs: str, id: str):
        self._bucket = bucket
        self._folder = f"{partials}{known_upload(id)}/"
        self._blobs = blobs

    def size(self) -> int:
        """The bytes that are there."""
        return sum(piece.size_bytes for piece in self._pieces())

    def append(self, offset: int) -> S3PartialWriter:
        """A writer at the end, which must be at `offset`. Raises Conflict."""
        pieces = self._pieces()
        size = sum(piece.size_bytes for piece in pieces)
        if size != offset:
            raise Conflict(f"the upload has {size} bytes, not {offset}", hint="go on from where it is")
        unfinished = bool(pieces) and pieces[-1].size_bytes < self._bucket.part_bytes
        return S3PartialWriter(self._bucket, self._folder, offset, pieces[-1] if unfinished else None)

    def commit(self, digest: str | None = None) -> Blob:
        """Make the blob; without its SHA-256, its bytes are read once. Raises NotFound where a piece is gone, Unavailable."""
        pieces = self._pieces()
        digest = digest or self._digest(pieces)
        target = self._blobs + digest
        if len(pieces) == 1:
            self._bucket.copy(pieces[0], target)
        elif pieces:
            with self._bucket.multipart(target) as upload:
                for piece in pieces:
                    upload.copy(piece, 0, piece.size_bytes)
        else:
            self._bucket.put(target, b"")
        self.abort()
        return Blob(digest, sum(piece.size_bytes for piece in pieces))

    def abort(self) -> None:
        """Forget the bytes."""
        self._bucket.delete_all(piece.key for piece in self._bucket.below(self._folder))

    def _pieces(self) -> list[Stored]:
        return list(self._connected())

    def _connected(self) -> Iterator[Stored]:
        end = 0
        for piece in self._bucket.below(self._folder):
            if piece.key != f"{self._folder}{end:020d}":
                return
            yield piece
            end += piece.size_bytes

    def _digest(self, pieces: list[Stored]) -> str:
        digest = hashlib.sha256()
        reading: deque[Future[bytes]] = deque()
        try:
            for piece in pieces:
                reading.append(self._bucket.pool.submit(self._read, piece))
                if len(reading) > AHEAD:
                    digest.update(reading.popleft().result())
            while reading:
                digest.update(reading.popleft().result())
        finally:
            settle(reading)
        return digest.hexdigest()

    def _read(self, piece: Stored) -> bytes:
        return b"".join(self._bucket.read(piece.key))
