"""The Python client: everything that the command line does, for scripts.

    from app.client import Client

    with Client.discover() as client:
        model = client.wait_model(client.upload_model("resnet.onnx")["id"])
        job = client.submit({"kind": "optimize", "subject": model["id"], "targets": [{"runtime": "onnxruntime-cpu"}]})
        job = client.wait(job["id"])
        client.download(job["result"]["artifacts"]["engine"], "engine.zip")

Answers are the service's JSON objects as dictionaries (`api.md`). A `Client` belongs to one thread.
"""

import ipaddress
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import httpx

from app import __version__
from app.answers import ApiProblem as ApiProblem
from app.answers import Json, object_of, problem_of
from app.connection import find_connection
from app.downloads import download
from app.event_stream import ServerEvent, read_events

JsonList = list[Json]
Answer = TypeVar("Answer")
Progress = Callable[[int, int], None]  # bytes done, bytes in all

ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0
POLL_SECONDS = 30
TRANSIENT = frozenset({429, 502, 503, 504})  # RFC 9110 and RFC 6585: the same request may succeed later


class Unreachable(Exception):
    """The service cannot be reached, or went away and did not come back."""


class Client:
    """A connection to one service, with one key.

    Network errors and answers that say "later" are tried again with growing pauses. Every POST carries an
    `Idempotency-Key`, so that trying again never does a thing twice.
    """

    def __init__(
        self, url: str, api_key: str, *, patience_seconds: float = 120.0, timeout_seconds: float = 60.0
    ):
        """`patience_seconds`: how long `wait` and `events` bear a service that does not answer."""
        self.url = url.rstrip("/")
        self._patience_seconds = patience_seconds
        self._http = httpx.Client(
            base_url=f"{self.url}/v1/",
            headers={"Authorization": f"Bearer {api_key}", "User-Agent": f"burnish/{__version__}"},
            timeout=httpx.Timeout(timeout_seconds, connect=10.0),
            trust_env=not _is_loopback(self.url),  # a proxy cannot reach this machine's own addresses
        )

    @classmethod
    def discover(cls, url: str | None = None, api_key: str | None = None) -> "Client":
        """A client for the service that `find_connection` finds.

        Raises:
            NoConnection: nothing says where the service is.
        """
        connection = find_connection(url, api_key)
        return cls(connection.url, connection.api_key)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- models and datasets

    def upload_model(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        format: str | None = None,
        signature: Sequence[str] | None = None,
        architecture: str | None = None,
        progress: Progress | None = None,
    ) -> Json:
        """Upload a model in constant memory; the answer's `status` is `inspecting` (see `wait_model`).

        `signature`: texts `NAME:DTYPE:DIM,DIM…`, for files that do not tell.
        """
        fields = {"name": name, "format": format, "signature": signature, "architecture": architecture}
        return self._upload("models", Path(path), fields, progress)

    def upload_dataset(
        self, path: str | Path, *, name: str | None = None, progress: Progress | None = None
    ) -> Json:
        """Upload a dataset (`.npz`) in constant memory; see `wait_dataset`."""
        return self._upload("datasets", Path(path), {"name": name}, progress)

    def wait_model(self, model_id: str) -> Json:
        """The model, once it is inspected.

        Raises:
            ApiProblem: it was rejected; the problem says why.
        """
        return self._wait_inspected(f"models/{model_id}")

    def wait_dataset(self, dataset_id: str) -> Json:
        """The dataset, once it is inspected.

        Raises:
            ApiProblem: it was rejected; the problem says why.
        """
        return self._wait_inspected(f"datasets/{dataset_id}")

    # --- jobs

    def submit(self, job: Mapping[str, Any]) -> Json:
        """Queue a job; `job` is the body of `POST /v1/jobs`."""
        return self._json("POST", "jobs", json=dict(job))

    def validate(self, model_id: str, job: Mapping[str, Any]) -> Json:
        """What the job would do, per target; nothing is queued."""
        return self._json("POST", f"models/{model_id}/validate", json=dict(job))

    def wait(self, job_id: str, on_change: Callable[[Json], None] | None = None) -> Json:
        """The job, once it is finished, however it ended; `on_change` hears of every change before.

        Raises:
            Unreachable: the service did not answer for `patience_seconds`.
        """
        job = self.show("jobs", job_id)
        while True:
            if on_change is not None:
                on_change(job)
            if job["finished"]:
                return job
            job = self._patiently(lambda: self._poll(f"jobs/{job_id}"))

    def events(self, job_id: str, last_event_id: str | None = None) -> Iterator[ServerEvent]:
        """The job's events until it is finished, from after `last_event_id` on; a broken stream is taken up again.

        Raises:
            Unreachable: the service did not answer for `patience_seconds`.
        """
        seen = last_event_id
        while True:
            heard = False
            try:
                for event in self._stream_events(job_id, seen):
                    seen, heard = event.id or seen, True
                    yield event
            except httpx.TransportError:
                pass
            job = self._patiently(lambda: self.show("jobs", job_id))
            if (
                job["finished"] and not heard
            ):  # another look after the end: nothing came behind the last event
                return
            if not heard:
                time.sleep(FIRST_PAUSE_SECONDS)

    def cancel(self, job_id: str) -> Json:
        """Ask for a job to be cancelled; it ends within seconds."""
        return self._json("POST", f"jobs/{job_id}/cancel")

    def retry(self, job_id: str) -> Json:
        """Queue a new job like a finished one; its `retry_of` names the old one."""
        return self._json("POST", f"jobs/{job_id}/retry")

    def logs(self, job_id: str) -> str:
        """The job's log."""
        return self._send("GET", f"jobs/{job_id}/logs").text

    def job_artifacts(self, job_id: str) -> JsonList:
        """What a job made."""
        return list(self._pages(f"jobs/{job_id}/artifacts", {}))

    # --- every kind of thing: `kind` is models, datasets, jobs or artifacts

    def list(self, kind: str, *, most: int | None = None, **filters: Any) -> JsonList:
        """Newest first, `most` at most; filters as `api.md` names them."""
        return list(self._pages(kind, filters, most))

    def show(self, kind: str, id_: str) -> Json:
        """One of them."""
        return self._json("GET", f"{kind}/{id_}")

    def delete(self, kind: str, id_: str) -> None:
        """Delete one; 409 while something else needs it."""
        self._send("DELETE", f"{kind}/{id_}")

    def download(self, artifact_id: str, path: str | Path, progress: Progress | None = None) -> Path:
        """Download an artifact to a file, or into a directory under its own name.

        What an earlier, broken download left is used; the digest of the whole file is checked.

        Raises:
            DamagedDownload: the bytes are not those that the service promised.
        """
        artifact = self.show("artifacts", artifact_id)
        path = Path(path)
        target = path / artifact["filename"] if path.is_dir() else path
        download(self._open, f"artifacts/{artifact_id}/content", artifact, target, progress)
        return target

    # --- catalog and fleet

    def passes(self) -> JsonList:
        """The passes, with the JSON Schema of their parameters."""
        return list(self._pages("passes", {}))

    def runtimes(self) -> JsonList:
        """The runtimes, with the JSON Schema of a target's parameters."""
        return list(self._pages("runtimes", {}))

    def metrics(self) -> JsonList:
        """The metrics that an evaluation can name."""
        return list(self._pages("metrics", {}))

    def workers(self) -> JsonList:
        """The live workers."""
        return list(self._pages("workers", {}))

    # --- how requests are sent

    def _upload(self, kind: str, path: Path, fields: Json, progress: Progress | None) -> Json:
        said = {name: value for name, value in fields.items() if value}
        key = _new_key()
        with path.open("rb") as file:
            source = _Counted(file, path.stat().st_size, progress)

            def send() -> httpx.Response:
                files: Any = {"file": (path.name, source, "application/octet-stream")}
                return self._http.post(kind, data=said, files=files, headers={"Idempotency-Key": key})

            return object_of(self._retried(send))

    def _wait_inspected(self, path: str) -> Json:
        while True:
            subject = self._patiently(lambda: self._poll(path))
            if subject["status"] == "rejected":
                raise ApiProblem(subject["problem"])
            if subject["status"] != "inspecting":
                return subject

    def _poll(self, path: str) -> Json:
        """A long poll: the service holds the answer until something changes."""
        return self._json("GET", path, params={"wait": POLL_SECONDS})

    def _pages(self, path: str, filters: Mapping[str, Any], most: int | None = None) -> Iterator[Json]:
        query = {name: value for name, value in filters.items() if value is not None}
        left = most
        while left is None or left > 0:
            if left is not None:
                query["limit"] = min(left, 200)
            page = self._json("GET", path, params=query)
            yield from page["items"]
            if page.get("next_cursor") is None:
                return
            query["cursor"] = page["next_cursor"]
            left = None if left is None else left - len(page["items"])

    def _json(self, method: str, path: str, **more: Any) -> Json:
        return object_of(self._send(method, path, **more))

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Idempotency-Key": _new_key()} if method == "POST" else {}
        return self._retried(lambda: self._http.request(method, path, headers=headers, **more))

    def _open(self, path: str, headers: Mapping[str, str]) -> httpx.Response:
        """An answer whose body is still to be read; the caller closes it."""

        def send() -> httpx.Response:
            return self._http.send(self._http.build_request("GET", path, headers=dict(headers)), stream=True)

        return self._retried(send)

    def _stream_events(self, job_id: str, seen: str | None) -> Iterator[ServerEvent]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": seen} if seen is not None else {})}
        response = self._patiently(lambda: self._open(f"jobs/{job_id}/events", headers))
        try:
            yield from read_events(response.iter_lines())
        finally:
            response.close()

    def _retried(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                response = send()
            except httpx.TransportError as error:
                if last:
                    raise Unreachable(
                        f"{self.url} does not answer: {error or type(error).__name__}"
                    ) from error
                _pause(attempt, None)
                continue
            except httpx.InvalidURL as error:
                raise Unreachable(f"{self.url} is no address: {error}") from error
            if response.status_code < 400:
                return response
            response.read()
            response.close()
            if last or response.status_code not in TRANSIENT:
                raise ApiProblem(problem_of(response), refused=response.status_code < 500)
            _pause(attempt, response.headers.get("Retry-After"))
        raise AssertionError("the last attempt returns or raises")

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """Ask until there is an answer, for as long as our patience lasts: services restart."""
        deadline = time.monotonic() + self._patience_seconds
        attempt = 0
        while True:
            try:
                return ask()
            except (Unreachable, ApiProblem) as error:
                passing = isinstance(error, Unreachable) or error.status in TRANSIENT
                if not passing or time.monotonic() > deadline:
                    raise
            _pause(attempt, None)
            attempt += 1


class _Counted:
    """A file that tells how far it was read; httpx reads it in pieces, and again from the start on a retry."""

    def __init__(self, file: BinaryIO, size_bytes: int, progress: Progress | None):
        self._file = file
        self._size_bytes = size_bytes
        self._progress = progress

    def fileno(self) -> int:
        return self._file.fileno()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        if self._progress is not None:
            self._progress(self._file.tell(), self._size_bytes)
        return data


def _is_loopback(url: str) -> bool:
    try:
        host = httpx.URL(url).host
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except (httpx.InvalidURL, ValueError):
        return False


def _new_key() -> str:
    return str(uuid.uuid4())


def _pause(attempt: int, retry_after: str | None) -> None:
    """Exponential backoff with jitter, or what `Retry-After` asks for, bounded."""
    seconds = min(FIRST_PAUSE_SECONDS * 2.0 ** min(attempt, 10), LONGEST_PAUSE_SECONDS)
    seconds *= random.uniform(0.75, 1.25)
    if retry_after is not None and retry_after.isdecimal():
        seconds = min(float(retry_after), 60.0)
    time.sleep(seconds)
