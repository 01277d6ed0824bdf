"""One request that appends to an upload: holds its lease, writes what comes, keeps what came, completes what is whole."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.auth.quotas import storage_room
from app.config import get_settings
from app.db import transaction
from app.errors import Conflict, NotFound, PayloadTooLarge, UploadMismatch
from app.http.receiving import receive_into
from app.storage import PartialWriter, get_storage
from app.uploads import digests, service

log = structlog.get_logger(__name__)


async def append(
    request: Request, project_id: str, upload_id: str, offset_bytes: int, last: bool | None
) -> dict[str, str]:
    """Add a request's body to an upload at `offset_bytes`; the header fields that say how far it is then.

    `last`: whether the upload ends with this body; None: it does where the announced size is reached.

    Raises:
        NotFound: the project has no such upload.
        Conflict: the offset is another, it is complete, or another request appends to it.
        UploadMismatch, PayloadTooLarge: what came is not what was announced, or too much; the upload is gone.
        UploadStalled: nothing came for too long; what came is kept.
        QuotaExceeded, DiskFull: what fitted is kept.
    """
    appender = await run_in_threadpool(_Appender, project_id, upload_id, offset_bytes)
    keeper = asyncio.create_task(appender.keep())
    try:
        try:
            await receive_into(appender.write, request)
        finally:
            await run_in_threadpool(appender.close)
        return await run_in_threadpool(appender.finish, last)
    except (UploadMismatch, PayloadTooLarge):
        await run_in_threadpool(appender.discard)
        raise
    finally:
        keeper.cancel()
        await run_in_threadpool(appender.end)


class _Appender:
    """The hold on an upload. Every method runs in a thread but `keep`."""

    def __init__(self, project_id: str, upload_id: str, offset_bytes: int):
        settings = get_settings()
        self._lease_seconds = settings.lease_seconds
        self._held_until = time.monotonic() + self._lease_seconds
        with transaction() as session:
            self._upload = service.claim(session, project_id, upload_id, self._lease_seconds)
            self._room = storage_room(session, project_id)  # what came before counts as stored
        self._hold = project_id, upload_id, self._upload.appends
        self._limit = self._upload.size_bytes or settings.max_upload_bytes
        self._partial = get_storage().partial(upload_id)
        self._digest: str | None = None
        self._ended = False
        self._lock = threading.Lock()  # `keep` may still be renewing when the request ends
        self.offset_bytes = self._upload.offset_bytes
        try:
            self.offset_bytes = self._partial.size()
            if self.offset_bytes != offset_bytes:
                raise Conflict(
                    f"the upload has {self.offset_bytes} bytes, the request begins at {offset_bytes}",
                    param="Upload-Offset",
                    hint="go on from the Upload-Offset of this answer",
                    headers=service.headers(self.offset_bytes, self._upload.size_bytes, complete=False),
                )
            self._writer: PartialWriter = self._partial.append(offset_bytes)
            self._sha256 = digests.take(upload_id, self._upload.appends, offset_bytes)
        except BaseException:
            self.end()
            raise

    async def keep(self) -> None:
        """Renew the lease until cancelled."""
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            try:
                await run_in_threadpool(self._renew)
            except SQLAlchemyError:
                log.warning("upload_lease_not_renewed", upload=self._upload.id, exc_info=True)

    def write(self, data: bytes) -> None:
        """Append a piece; what is over the limit is not written."""
        if time.monotonic() > self._held_until:
            raise self._lost()
        room = self._limit - self.offset_bytes
        self._room.take(min(len(data), room))
        self._writer.write(memoryview(data)[:room])
        if self._sha256 is not None:
            self._sha256.update(memoryview(data)[:room])
        self.offset_bytes += min(len(data), room)
        if len(data) > room:
            if self._upload.size_bytes is None:
                raise PayloadTooLarge(
                    f"the upload is larger than {self._limit} bytes",
                    hint="upload a smaller file, or raise BURNISH_MAX_UPLOAD_BYTES",
                )
            raise UploadMismatch(f"more than the {self._limit} bytes came that were announced")

    def close(self) -> None:
        """Make durable what came."""
        hashed = self.offset_bytes
        self.offset_bytes = self._writer.close()
        if self.offset_bytes != hashed:  # a write was cut short
            self._sha256 = None
        if self._sha256 is not None:
            digests.leave(self._upload.id, self._upload.appends, self.offset_bytes, self._sha256)

    def finish(self, last: bool | None) -> dict[str, str]:
        """Make a blob of what is whole; say how far it is."""
        size = self._upload.size_bytes
        if not (self.offset_bytes == size if last is None else last):
            return service.headers(self.offset_bytes, size, complete=False)
        if self.offset_bytes == 0:
            raise UploadMismatch("the upload is empty")
        if size not in (None, self.offset_bytes):
            raise UploadMismatch(f"{self.offset_bytes} bytes came, {size} were announced")
        if not self._renew():
            raise self._lost()
        blob = self._partial.commit(self._sha256.hexdigest() if self._sha256 is not None else None)
        self._digest = blob.digest
        if self._upload.sha256 not in (None, blob.digest):
            raise UploadMismatch(
                f"the upload's SHA-256 is {blob.digest}, not {self._upload.sha256} as announced",
                param="sha256",
                hint="send it again from the start: bytes were changed on the way, or the file was while it was read",
            )
        with self._ending() as session:
            held = service.complete(session, *self._hold, blob)
        if not held:
            raise NotFound(f"the upload {self._upload.id} was deleted meanwhile")
        return service.headers(blob.size_bytes, blob.size_bytes, complete=True)

    def discard(self) -> None:
        """Forget the upload and its bytes."""
        with self._ending() as session:
            service.discard(session, *self._hold, self._digest)

    def end(self) -> None:
        """Let others append."""
        if not self._ended:
            with self._ending() as session:
                service.end(session, *self._hold, self.offset_bytes)

    @contextmanager
    def _ending(self) -> Iterator[Session]:
        with self._lock, transaction() as session:
            yield session
            self._ended = True

    def _renew(self) -> bool:
        begun = time.monotonic()
        with self._lock, transaction() as session:
            held = not self._ended and service.renew(
                session, *self._hold, self.offset_bytes, self._lease_seconds
            )
        self._held_until = begun + self._lease_seconds if held else 0.0
        return held

    def _lost(self) -> Conflict:
        return Conflict(
            f"this request's hold on the upload {self._upload.id} is lost",
            hint="ask for the upload's offset and go on from there",
        )
