"""What the store asks of S3, in its words: objects under a prefix, conditions, ranges, multipart uploads, and errors of ours.

Requests are tried again by botocore (`ATTEMPTS`, with growing pauses); reading goes on where a connection broke.
"""

import ctypes
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import Any

import structlog
from botocore.exceptions import BotoCoreError, ClientError

from app.errors import BurnishError, Conflict, DiskFull, NotFound, Unavailable
from app.storage.blobs import CHUNK_BYTES
from app.storage.disk import disk_errors

MIB = 1024 * 1024
PART_BYTES = 8 * MIB  # S3 wants 5 MiB at least; a few of these are held by each upload
MOST_PARTS = 10_000  # of a multipart upload, by S3's rules
COPY_BYTES = 1024 * MIB  # more are copied in parts, at once; S3 copies 5 GiB at most in one request
IN_FLIGHT = 2  # parts of an upload, which hold memory
COPIES_IN_FLIGHT = 12  # which hold none
THREADS = 16
BREAKS = 5  # of a connection, without a byte in between
ATTEMPTS = 5

M_MMAP_THRESHOLD = -3  # malloc.h

MISSING = {"404", "NoSuchKey", "NotFound", "NoSuchUpload", "NoSuchVersion"}
CHANGED = {"412", "PreconditionFailed", "ConditionalRequestConflict"}
FULL = {"507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Stored:
    """An object as the store sees it; `age_seconds` since it was last written, by the clock of S3."""

    key: str
    size_bytes: int
    age_seconds: float
    etag: str
    version: str | None = None  # in buckets with versioning


class Bucket:
    """The objects below a prefix of a bucket. Keys are given and returned without the prefix."""

    def __init__(self, client: Any, name: str, prefix: str, part_bytes: int = PART_BYTES):
        """`client`: boto3's, which any number of threads may use."""
        self.client = client
        self.name = name
        self.prefix = prefix
        self.part_bytes = part_bytes
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="s3")
        give_back_memory()

    def at(self, key: str) -> dict[str, str]:
        """The parameters of a request that name an object."""
        return {"Bucket": self.name, "Key": self.prefix + key}

    def head(self, key: str) -> Stored | None:
        """An object's size, age and version; None where there is none."""
        try:
            with s3_errors():
                found = self.client.head_object(**self.at(key))
        except NotFound:
            return None
        age = _age_seconds(found["LastModified"], found)
        return Stored(key, found["ContentLength"], age, found["ETag"], found.get("VersionId"))

    def below(self, folder: str) -> Iterator[Stored]:
        """The objects whose key begins like this, sorted by key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=self.prefix + folder
        )
        for page in _each(pages):
            for found in page.get("Contents", ()):
                key = found["Key"].removeprefix(self.prefix)
                age = _age_seconds(found["LastModified"], page)
                yield Stored(key, found["Size"], age, found["ETag"])

    def put(self, key: str, data: bytes | bytearray, **conditions: str) -> str:
        """Store an object; its ETag. Raises Conflict where a condition (`IfMatch`, `IfNoneMatch`) does not hold."""
        with s3_errors():
            return str(self.client.put_object(**self.at(key), Body=data, **conditions)["ETag"])

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """An object's bytes from `start` up to and without `end`, in chunks. Raises NotFound, Unavailable."""
        breaks = 0
        while end is None or start < end:
            whole = start == 0 and end is None
            wanted = {} if whole else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
            with s3_errors():
                try:
                    body = self.client.get_object(**self.at(key), **wanted)["Body"]
                except ClientError as error:
                    if _code(error) in ("416", "InvalidRange"):
                        return
                    raise
            with closing(body):
                while True:
                    try:
                        chunk = body.read(CHUNK_BYTES)
                    except BotoCoreError as error:  # the connection broke: go on behind what came
                        breaks += 1
                        if breaks > BREAKS:
                            raise _translated(error) from error
                        break
                    if not chunk:
                        return
                    start, breaks = start + len(chunk), 0
                    yield chunk

    def fetch(self, key: str, target: Path) -> None:
        """Write an object into a new file, several ranges at once. Raises NotFound, Unavailable, DiskFull."""
        found = self.head(key)
        if found is None:
            raise NotFound("the object store has no such file")
        step = 4 * self.part_bytes
        with disk_errors(), target.open("xb") as file:
            pending = [
                self.pool.submit(self._fetch, key, start, min(start + step, found.size_bytes), file.fileno())
                for start in range(0, found.size_bytes, step)
            ]
            try:
                for each in pending:
                    each.result()
            except BaseException:
                target.unlink(missing_ok=True)
                raise
            finally:
                settle(pending)

    def _fetch(self, key: str, start: int, end: int, file: int) -> None:
        for chunk in self.read(key, start, end):
            rest = memoryview(chunk)
            while rest:
                written = os.pwrite(file, rest, start)
                rest, start = rest[written:], start + written
        if start != end:
            raise Unavailable("the object store sent less than it has")

    def copy(self, source: Stored, target: str) -> None:
        """Copy an object within the bucket, or onto itself, which makes it young. Raises NotFound, and Conflict where it changed."""
        if source.size_bytes <= COPY_BYTES:
            with s3_errors():
                self.client.copy_object(
                    **self.at(target),
                    CopySource=self.at(source.key),
                    CopySourceIfMatch=source.etag,
                    MetadataDirective="REPLACE",
                )
            return
        with self.multipart(target) as upload:
            for start in range(0, source.size_bytes, COPY_BYTES // 4):
                upload.copy(source, start, min(start + COPY_BYTES // 4, source.size_bytes))

    def delete(self, key: str, version: str | None = None) -> None:
        """Remove an object, or one version of it; nothing happens where there is none."""
        with s3_errors():
            self.client.delete_object(**self.at(key), **({"VersionId": version} if version else {}))

    def delete_all(self, keys: Iterable[str]) -> None:
        """Remove many objects."""
        each = iter(keys)
        while some := list(islice(each, 1000)):
            with s3_errors():
                done = self.client.delete_objects(
                    Bucket=self.name,
                    Delete={"Objects": [{"Key": self.prefix + key} for key in some], "Quiet": True},
                )
            if failed := done.get("Errors"):
                raise Unavailable(f"the object store does not remove files: {failed[0].get('Code')}")

    @contextmanager
    def multipart(self, key: str) -> "Iterator[Multipart]":
        """A multipart upload, complete at the block's end; an error in the block aborts it."""
        upload = Multipart(self, key)
        try:
            yield upload
            upload.complete()
        except BaseException:
            upload.abort()
            raise

    def abandoned(self, folder: str, older_than_seconds: float) -> "Iterator[tuple[str, str]]":
        """Key and id of multipart uploads that were begun longer ago than that."""
        pages = self.client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self.name, Prefix=self.prefix + folder
        )
        for page in _each(pages):
            for found in page.get("Uploads", ()):
                if _age_seconds(found["Initiated"], page) >= older_than_seconds:
                    yield found["Key"].removeprefix(self.prefix), found["UploadId"]

    def abort(self, key: str, upload_id: str) -> int:
        """Forget a multipart upload; the bytes that its parts held."""
        named = {**self.at(key), "UploadId": upload_id}
        pages = self.client.get_paginator("list_parts").paginate(**named)
        try:
            held: int = sum(part["Size"] for page in _each(pages) for part in page.get("Parts", ()))
            with s3_errors():
                self.client.abort_multipart_upload(**named)
        except NotFound:  # it was completed or aborted meanwhile
            return 0
        return held


class Multipart:
    """A multipart upload: parts leave while the next are made, a few at a time."""

    def __init__(self, bucket: Bucket, key: str):
        self._bucket = bucket
        self._at = bucket.at(key)
        with s3_errors():
            self._id: str = bucket.client.create_multipart_upload(**self._at)["UploadId"]
        self._pending: deque[Future[dict[str, Any]]] = deque()
        self._parts: list[dict[str, Any]] = []
        self._begun = 0

    def add(self, data: bytes | bytearray) -> None:
        """Send a part; `data` must not be changed after. May raise the error of an earlier part."""
        self._submit(IN_FLIGHT, self._bucket.client.upload_part, Body=data)

    def copy(self, source: Stored, start: int, end: int) -> None:
        """Make a part from bytes of an object. May raise the error of an earlier part."""
        self._submit(
            COPIES_IN_FLIGHT,
            self._bucket.client.upload_part_copy,
            CopySource=self._bucket.at(source.key),
            CopySourceIfMatch=source.etag,
            CopySourceRange=f"bytes={start}-{end - 1}",
        )

    def complete(self) -> None:
        """Make the object out of its parts."""
        while self._pending:
            self._settle()
        with s3_errors():
            self._bucket.client.complete_multipart_upload(
                **self._at, UploadId=self._id, MultipartUpload={"Parts": self._parts}
            )

    def abort(self) -> None:
        """Forget the parts; what fails here is left to `burnish gc`."""
        settle(self._pending)
        with suppress(BurnishError), s3_errors():
            self._bucket.client.abort_multipart_upload(**self._at, UploadId=self._id)

    def _submit(self, most: int, call: Any, **part: Any) -> None:
        if len(self._pending) >= most:
            self._settle()
        self._begun += 1
        named = {**self._at, "UploadId": self._id, "PartNumber": self._begun}
        self._pending.append(self._bucket.pool.submit(call, **named, **part))

    def _settle(self) -> None:
        with s3_errors():
            answer = self._pending.popleft().result()
        made = answer.get("CopyPartResult", answer)
        sums = {name: value for name, value in made.items() if name.startswith("Checksum")}
        sums.pop("ChecksumType", None)
        self._parts.append({"PartNumber": len(self._parts) + 1, "ETag": made["ETag"], **sums})


def give_back_memory() -> None:
    """Let the C library give freed parts back to the system, for the rest of this process (mallopt(3)).

    By itself glibc learns to keep blocks of such sizes, for each thread anew: after some uploads, ten times what they hold.
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(M_MMAP_THRESHOLD, CHUNK_BYTES)


@contextmanager
def s3_errors() -> Iterator[None]:
    """What botocore raises, as errors of ours: NotFound, Conflict, DiskFull, Unavailable."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise _translated(error) from error


def cut(buffer: bytearray, size: int) -> bytearray:
    """Shorten a buffer to `size` bytes; the rest, as one of its own."""
    rest = buffer[size:]
    del buffer[size:]
    return rest


def settle(futures: Iterable[Future[Any]]) -> None:
    """Wait until nothing of this runs any more, whatever came of it."""
    for each in futures:
        if not each.cancel():
            each.exception()


def _translated(error: BotoCoreError | ClientError) -> BurnishError:
    code = _code(error)
    if code in MISSING:
        return NotFound("the object store has no such file")
    if code in CHANGED:
        return Conflict("another request wrote to the same place", hint="look again and go on")
    if code in FULL:
        return DiskFull(
            "the object store has no space left", hint="free space, run `burnish gc`, or raise its quota"
        )
    log.warning("object_store_failed", code=code, error=str(error))  # details may name addresses
    return Unavailable(f"the object store failed: {code}", hint="try again; the service's log says more")


def _code(error: BotoCoreError | ClientError) -> str:
    return (
        str(error.response["Error"].get("Code")) if isinstance(error, ClientError) else type(error).__name__
    )


def _each(pages: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    pages = iter(pages)
    while True:
        with s3_errors():
            page = next(pages, None)
        if page is None:
            return
        yield page


def _age_seconds(then: datetime, answer: dict[str, Any]) -> float:
    """By the clock of the server that answered: ours may be another's."""
    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    return max(0.0, (now - then).total_seconds())
