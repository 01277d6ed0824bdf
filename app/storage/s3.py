"""The store in an S3-compatible bucket: `blobs/DIGEST`, with what is on its way under `incoming/` and `partial/`.

S3 has no rename. What is sent under a digest that is known before is sent there; where the digest is known only at the end, the
bytes go to `incoming/` and S3 copies them. The age of a blob is the age of its object: storing it again writes or copies it.
"""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from app.config import Settings
from app.errors import BurnishError, Conflict, Internal, NotFound
from app.storage.blobs import ABANDONED_SECONDS, Blob, Storage, known_digest, too_large
from app.storage.bucket import ATTEMPTS, MOST_PARTS, PART_BYTES, THREADS, Bucket, Multipart, cut, s3_errors
from app.storage.cache import Cache, has_digest
from app.storage.s3_partial import S3Partial
from app.storage.trees import open_regular

BLOBS, INCOMING, PARTIAL = "blobs/", "incoming/", "partial/"
CHECK_SECONDS = 2.0  # a probe that hangs keeps other parts from being asked
LINK_SECONDS = 900  # to begin a download; a client that goes on later asks for a new link


class S3BlobWriter:
    """Sends parts while more bytes come; holds a few parts, however large the blob is."""

    def __init__(self, bucket: Bucket, limit_bytes: int | None):
        self._bucket = bucket
        self._limit = limit_bytes
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self._incoming = INCOMING + uuid.uuid4().hex
        self._upload: Multipart | None = None  # once there is more than a part
        self.size_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes. Raises PayloadTooLarge, DiskFull, Unavailable."""
        self.size_bytes += len(data)
        if self._limit is not None and self.size_bytes > self._limit:
            raise too_large(self._limit)
        self._hash.update(data)
        self._buffer += data
        while len(self._buffer) > self._bucket.part_bytes:
            if self._upload is None:
                self._upload = Multipart(self._bucket, self._incoming)
            rest = cut(self._buffer, self._bucket.part_bytes)
            self._upload.add(self._buffer)
            self._buffer = rest

    def commit(self) -> Blob:
        """Make the bytes durable under their digest. Raises DiskFull, Unavailable."""
        digest = self._hash.hexdigest()
        if self._upload is None:
            self._bucket.put(BLOBS + digest, self._buffer)
            return Blob(digest, self.size_bytes)
        self._upload.add(self._buffer)
        self._upload.complete()
        incoming = self._bucket.head(self._incoming)
        if incoming is None:
            raise Internal("a file went missing in the object store")
        self._bucket.copy(incoming, BLOBS + digest)
        self._bucket.delete(self._incoming)
        return Blob(digest, self.size_bytes)

    def abort(self) -> None:
        """Forget the bytes; what fails here is left to `burnish gc`."""
        if self._upload is not None:
            self._upload.abort()
            with suppress(BurnishError):
                self._bucket.delete(self._incoming)


class S3Storage(Storage):
    """Blobs in a bucket that API and workers reach; a worker keeps those that it used on its own disk."""

    def __init__(self, bucket: Bucket, cache: Cache, public: Any = None, hasty: Bucket | None = None):
        """`public`: a client that signs links for the address that the service's clients know; None: there are no links.

        `hasty`: the same bucket, by a client that gives up soon.
        """
        self.bucket = bucket
        self._cache = cache
        self._public = public
        self._hasty = hasty or bucket

    @classmethod
    def from_settings(cls, settings: Settings) -> "S3Storage":
        """The store that the settings describe; nothing is asked of it yet."""
        name, _, prefix = settings.storage_url.removeprefix("s3://").partition("/")
        prefix = prefix.strip("/")
        # every upload must fit into the number of parts that S3 allows
        part = max(PART_BYTES, -(-settings.max_upload_bytes // MOST_PARTS))
        place = name, f"{prefix}/" if prefix else "", part
        bucket = Bucket(client(settings, settings.s3_endpoint, ATTEMPTS), *place)
        hasty = Bucket(client(settings, settings.s3_endpoint, 1, CHECK_SECONDS), *place)
        public = None
        if settings.storage_presigned_downloads:
            public = client(settings, settings.s3_public_endpoint or settings.s3_endpoint, ATTEMPTS)
        return cls(bucket, Cache(settings.storage_cache_path, settings.storage_cache_bytes), public, hasty)

    def writer(self, limit_bytes: int | None = None) -> S3BlobWriter:
        """A writer for one new blob."""
        return S3BlobWriter(self.bucket, limit_bytes)

    def put_file(self, path: Path) -> Blob:
        """Store a file's bytes; those that are there already are not sent again.

        Raises:
            ValueError: the file changed meanwhile.
        """
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= self.bucket.part_bytes:
                return self.put(file)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if self._renew(digest, size):
                return Blob(digest, size)
            file.seek(0)
            sent = hashlib.sha256()
            part_bytes = max(self.bucket.part_bytes, -(-size // MOST_PARTS))
            with self.bucket.multipart(BLOBS + digest) as upload:
                while part := file.read(part_bytes):
                    sent.update(part)
                    upload.add(part)
                if sent.hexdigest() != digest:
                    raise ValueError(f"{path.name} changed while it was stored")
            return Blob(digest, size)

    def materialize_file(self, digest: str, target: Path) -> Path:
        """Lay one blob at `target`: out of this machine's cache, else fetched and checked; it must not be written to.

        Raises:
            NotFound: there is no such blob.
            DiskFull: no space left.
        """
        if self._cache.take(known_digest(digest), target):
            return target
        try:
            self.bucket.fetch(BLOBS + digest, target)
        except NotFound as error:
            raise _unknown(digest) from error
        if not has_digest(target, digest):
            target.unlink()
            raise Internal(f"the stored file {digest} is damaged", hint="upload it again")
        target.chmod(0o444)
        self._cache.keep(digest, target)
        return target

    def open(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to and without `end`, in chunks."""
        try:
            yield from self.bucket.read(BLOBS + known_digest(digest), start, end)
        except NotFound as error:
            raise _unknown(digest) from error

    def exists(self, digest: str) -> bool:
        """Whether a blob is stored."""
        return self.bucket.head(BLOBS + known_digest(digest)) is not None

    def stat(self, digest: str) -> tuple[int, float] | None:
        """A blob's size in bytes and the seconds since it was last stored; None where there is none."""
        found = self.bucket.head(BLOBS + known_digest(digest))
        return None if found is None else (found.size_bytes, found.age_seconds)

    def delete(self, digest: str, older_than_seconds: float = 0.0) -> int | None:
        """Forget a blob; its size, or None where there is none, or where it was stored again so lately.

        In a bucket with versioning, the versions that are old enough are removed: whoever stores the same bytes meanwhile makes
        another, and loses nothing. Without, what is stored between the question for the age and the removal is lost.
        """
        key, size = BLOBS + known_digest(digest), None
        while (found := self.bucket.head(key)) is not None and found.age_seconds >= older_than_seconds:
            self.bucket.delete(key, found.version)
            size = found.size_bytes
            if found.version is None:
                break
        return size

    def digests(self) -> Iterator[str]:
        """Every stored blob."""
        return (found.key.removeprefix(BLOBS) for found in self.bucket.below(BLOBS))

    def partial(self, id: str) -> S3Partial:
        """The partial of an upload (`upl_…`). Raises NotFound where that cannot be an id."""
        return S3Partial(self.bucket, PARTIAL, BLOBS, id)

    def partials(self) -> Iterator[tuple[str, float]]:
        """The id of every partial, and the seconds since it last grew."""
        id, youngest = None, 0.0
        for piece in self.bucket.below(PARTIAL):
            of = piece.key.removeprefix(PARTIAL).partition("/")[0]
            if id is not None and of != id:
                yield id, youngest
            youngest = min(youngest, piece.age_seconds) if of == id else piece.age_seconds
            id = of
        if id is not None:
            yield id, youngest

    def sweep(self, older_than_seconds: float = ABANDONED_SECONDS) -> int:
        """Remove objects and multipart uploads that writers left behind that died; the bytes that this freed."""
        old = [found for found in self.bucket.below(INCOMING) if found.age_seconds >= older_than_seconds]
        self.bucket.delete_all(found.key for found in old)
        freed = sum(found.size_bytes for found in old)
        for folder in (INCOMING, BLOBS):
            for key, upload_id in list(self.bucket.abandoned(folder, older_than_seconds)):
                freed += self.bucket.abort(key, upload_id)
        return freed

    def check(self) -> None:
        """Raises Unavailable where the bucket cannot be written; leaves nothing there."""
        Multipart(self._hasty, INCOMING + "check").abort()

    def link(self, digest: str, media_type: str, disposition: str) -> str | None:
        """A signed address that gives the blob to whoever knows it, for `LINK_SECONDS`; None where links are off."""
        if self._public is None:
            return None
        said = {"ResponseContentType": media_type, "ResponseContentDisposition": disposition}
        with s3_errors():
            return str(
                self._public.generate_presigned_url(
                    "get_object",
                    Params={**self.bucket.at(BLOBS + known_digest(digest)), **said},
                    ExpiresIn=LINK_SECONDS,
                )
            )

    def _renew(self, digest: str, size_bytes: int) -> bool:
        """Make a blob young; False where it is not there, as it should be."""
        found = self.bucket.head(BLOBS + digest)
        if found is None or found.size_bytes != size_bytes:
            return False
        try:
            self.bucket.copy(found, BLOBS + digest)
        except (NotFound, Conflict):  # removed, or stored again, meanwhile
            return False
        return True


def client(settings: Settings, endpoint: str, attempts: int, seconds: float = 60.0) -> Any:
    """boto3's client, which waits so long for each answer; what the settings leave open, credentials above all, comes from where boto3 looks."""
    with s3_errors():
        return _session().client(
            "s3",
            endpoint_url=endpoint or None,
            region_name=settings.s3_region or None,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": settings.s3_addressing},
                connect_timeout=min(5.0, seconds),
                read_timeout=seconds,
                retries={"mode": "standard", "total_max_attempts": attempts},
                max_pool_connections=2 * THREADS,
            ),
        )


@lru_cache
def _session() -> Any:
    return (
        boto3.session.Session()
    )  # reading its descriptions of services takes longer than anything else here


def _unknown(digest: str) -> NotFound:
    return NotFound(f"no stored file has the digest {digest}")
