"""Sending files: small ones in one form, large ones in parts that go on where they broke off, in this run or a later one."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import httpx

from app.answers import ApiProblem, Json, object_of, problem_of
from app.transport import TRANSIENT, Transport, Unreachable, new_key, pause

RESUMABLE_BYTES = 64 * 1024 * 1024  # from here on a file goes in parts
PART_BYTES = 64 * 1024 * 1024  # one request's; what a proxy that holds requests back can lose
PIECE_BYTES = 256 * 1024
HASHED_PER_SECOND = (
    50 * 1024 * 1024
)  # what a slow service manages, which hashes the whole file before its last answer
PASSING = TRANSIENT | {408, 500}
BUSY_SECONDS = 10.0  # how long to wait for an upload of an earlier run that the service still holds for it
STARTS = 3  # an upload may expire, or be used up by another run over the same file

Progress = Callable[[int, int], None]  # bytes done, bytes in all


def send_file(
    transport: Transport, kind: str, path: Path, fields: Mapping[str, Any], progress: Progress | None = None
) -> Json:
    """Make a model or a dataset (`kind`: the collection) of a file; the answer of the POST that does.

    Raises:
        ApiProblem: the service refused it.
        Unreachable: the service did not answer for as long as the transport's patience lasts.
    """
    said = {name: value for name, value in fields.items() if value}
    show = progress or (lambda done, total: None)
    with path.open("rb") as file:
        if path.stat().st_size < RESUMABLE_BYTES:
            return _send_form(transport, kind, file, said, show)
        return _Parts(transport, file, show).send(kind, said)


def _send_form(
    transport: Transport, kind: str, file: BufferedReader, said: Mapping[str, Any], progress: Progress
) -> Json:
    key = new_key()
    source = _Counted(file, progress)

    def send() -> httpx.Response:
        files: Any = {"file": (Path(file.name).name, source, "application/octet-stream")}
        return transport.http.post(kind, data=said, files=files, headers={"Idempotency-Key": key})

    return object_of(transport.retried(send))


class _Counted:
    """A file that tells how far it was read; httpx reads it in pieces, and again from the start on a retry."""

    def __init__(self, file: BufferedReader, progress: Progress):
        self._file = file
        self._size_bytes = Path(file.name).stat().st_size
        self._progress = progress

    def fileno(self) -> int:
        return self._file.fileno()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._progress(self._file.tell(), self._size_bytes)
        return data


class _Parts:
    """A file on its way as a resumable upload. The service remembers how far it is; an upload is known by name, size and digest."""

    def __init__(self, transport: Transport, file: BufferedReader, progress: Progress):
        self._transport = transport
        self._file = file
        self._progress = progress
        self._name = Path(file.name).name[:255]
        self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self._size_bytes = file.tell()

    def send(self, kind: str, said: Mapping[str, Any]) -> Json:
        """Send what is missing, and make a model or a dataset of it."""
        for start in range(STARTS):
            upload = self._earlier() or self._announce()
            try:
                self._send_missing(upload)
                return self._transport.json("POST", kind, json={"upload": upload, **said})
            except ApiProblem as error:
                if error.status != 404 or start == STARTS - 1:
                    raise
        raise AssertionError("the last start returns or raises")

    def _earlier(self) -> str | None:
        """The upload that an earlier run began, if the service lets go of it soon."""
        query = {"name": self._name, "sha256": self._sha256}
        found = self._transport.json("GET", "uploads", params=query)["items"]
        for upload in found:
            if upload["size_bytes"] == self._size_bytes and (
                upload["complete"] or self._is_free(upload["id"])
            ):
                return str(upload["id"])
        return None

    def _is_free(self, upload: str) -> bool:
        deadline, attempt = time.monotonic() + BUSY_SECONDS, 0
        while True:
            try:
                self._patch(upload, self._show(upload)["offset_bytes"], 0, complete="?0")
                return True
            except ApiProblem as error:
                if error.status not in (404, 409):
                    raise
                if error.status == 404 or time.monotonic() > deadline:
                    return False
            pause(attempt, None)
            attempt += 1

    def _announce(self) -> str:
        body = {"name": self._name, "size_bytes": self._size_bytes, "sha256": self._sha256}
        return str(self._transport.json("POST", "uploads", json=body)["id"])

    def _send_missing(self, upload: str) -> None:
        at = self._show(upload)
        breaks, deadline = 0, time.monotonic() + self._transport.patience_seconds
        while not at["complete"]:
            offset = at["offset_bytes"]
            self._progress(offset, self._size_bytes)
            try:
                self._patch(upload, offset, min(PART_BYTES, self._size_bytes - offset))
            except (Unreachable, ApiProblem) as error:
                passing = isinstance(error, Unreachable) or error.status in {*PASSING, 409}
                if not passing or time.monotonic() > deadline:
                    raise
                pause(breaks, None)
                breaks += 1
            at = self._transport.patiently(lambda: self._show(upload))
            if at["offset_bytes"] > offset:
                breaks, deadline = 0, time.monotonic() + self._transport.patience_seconds
        self._progress(self._size_bytes, self._size_bytes)

    def _show(self, upload: str) -> Json:
        return self._transport.json("GET", f"uploads/{upload}")

    def _patch(self, upload: str, offset: int, length: int, **fields: str) -> None:
        """One attempt. Raises ApiProblem, Unreachable."""
        seconds = self._transport.timeout_seconds
        if offset + length == self._size_bytes:
            seconds += self._size_bytes / HASHED_PER_SECOND
        headers = {
            "Content-Type": "application/partial-upload",
            "Content-Length": str(length),
            "Upload-Offset": str(offset),
            **{f"Upload-{name.title()}": value for name, value in fields.items()},
        }
        try:
            answer = self._transport.http.patch(
                f"uploads/{upload}",
                content=self._slice(offset, length),
                headers=headers,
                timeout=httpx.Timeout(seconds, connect=10.0),
            )
        except httpx.TransportError as error:
            raise Unreachable(
                f"{self._transport.url} does not answer: {error or type(error).__name__}"
            ) from error
        if answer.status_code >= 400:
            raise ApiProblem(problem_of(answer), refused=answer.status_code < 500)

    def _slice(self, offset: int, length: int) -> Iterator[bytes]:
        self._file.seek(offset)
        end = offset + length
        while offset < end:
            piece = self._file.read(min(PIECE_BYTES, end - offset))
            if not piece:
                raise OSError(f"{self._file.name} became shorter while it was sent")
            yield piece
            offset += len(piece)
            self._progress(offset, self._size_bytes)
