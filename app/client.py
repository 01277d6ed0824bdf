"""The Python client: everything that the command line does, for scripts.

    from app.client import Client

    with Client.discover() as client:
        model = client.wait_model(client.upload_model("resnet.onnx")["id"])
        job = client.submit({"kind": "optimize", "subject": model["id"], "targets": [{"runtime": "onnxruntime-cpu"}]})
        job = client.wait(job["id"])
        client.download(job["result"]["artifacts"]["engine"], "engine.zip")

Answers are the service's JSON objects as dictionaries (`api.md`). A `Client` belongs to one thread.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from app.answers import ApiProblem as ApiProblem
from app.answers import Json
from app.connection import find_connection
from app.downloads import download
from app.event_stream import ServerEvent, read_events
from app.sending import Progress, send_file
from app.transport import FIRST_PAUSE_SECONDS, Transport
from app.transport import Unreachable as Unreachable

JsonList = list[Json]

POLL_SECONDS = 30


class Client:
    """A connection to one service, with one key.

    Network errors and answers that say "later" are tried again with growing pauses. Every POST carries an
    `Idempotency-Key`, so that trying again never does a thing twice.
    """

    def __init__(
        self, url: str, api_key: str, *, patience_seconds: float = 120.0, timeout_seconds: float = 60.0
    ):
        """`patience_seconds`: how long `wait` and `events` bear a service that does not answer."""
        self._transport = Transport(url, api_key, patience_seconds, timeout_seconds)
        self.url = self._transport.url

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
        self._transport.http.close()

    # --- models and datasets

    def upload_model(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        format: str | None = None,
        signature: Sequence[str] | None = None,
        architecture: str | None = None,
        license: str | None = None,
        progress: Progress | None = None,
    ) -> Json:
        """Upload a model in constant memory; the answer's `status` is `inspecting` (see `wait_model`).

        A large file goes in parts: after a break, here or in a later call, only what is missing is sent.

        `signature`: texts `NAME:DTYPE:DIM,DIM…`, for files that do not tell.
        """
        fields = {
            "name": name,
            "format": format,
            "signature": signature,
            "architecture": architecture,
            "license": license,
        }
        return send_file(self._transport, "models", Path(path), fields, progress)

    def upload_dataset(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        fields: Sequence[str] = (),
        transforms: Sequence[Mapping[str, Any] | str] = (),
        progress: Progress | None = None,
    ) -> Json:
        """Upload a dataset (`.npz`, `.tar` in WebDataset form, Parquet) in constant memory; see `wait_dataset`.

        `fields` are `ARRAY=SOURCE`; `transforms` objects such as `{"do": "resize", "height": 224, "width": 224}`, or their JSON.
        """
        texts = [step if isinstance(step, str) else json.dumps(step) for step in transforms]
        given = {"name": name, "fields": list(fields) or None, "transforms": texts or None}
        return send_file(self._transport, "datasets", Path(path), given, progress)

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
        return self._transport.json("POST", "jobs", json=dict(job))

    def validate(self, model_id: str, job: Mapping[str, Any]) -> Json:
        """What the job would do, per target; nothing is queued."""
        return self._transport.json("POST", f"models/{model_id}/validate", json=dict(job))

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
            job = self._transport.patiently(lambda: self._poll(f"jobs/{job_id}"))

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
            job = self._transport.patiently(lambda: self.show("jobs", job_id))
            if (
                job["finished"] and not heard
            ):  # another look after the end: nothing came behind the last event
                return
            if not heard:
                time.sleep(FIRST_PAUSE_SECONDS)

    def cancel(self, job_id: str) -> Json:
        """Ask for a job to be cancelled; it ends within seconds."""
        return self._transport.json("POST", f"jobs/{job_id}/cancel")

    def retry(self, job_id: str) -> Json:
        """Queue a new job like a finished one; its `retry_of` names the old one."""
        return self._transport.json("POST", f"jobs/{job_id}/retry")

    def rebuild(self, artifact_id: str, request: Mapping[str, Any] | None = None) -> Json:
        """Queue a job that builds an engine anew from its stored model; `request` is the body of `POST …/rebuild`."""
        return self._transport.json("POST", f"artifacts/{artifact_id}/rebuild", json=dict(request or {}))

    def logs(self, job_id: str) -> str:
        """The job's log."""
        return self._transport.send("GET", f"jobs/{job_id}/logs").text

    def job_artifacts(self, job_id: str) -> JsonList:
        """What a job made."""
        return list(self._pages(f"jobs/{job_id}/artifacts", {}))

    # --- every kind of thing: `kind` is models, datasets, jobs or artifacts

    def list(self, kind: str, *, most: int | None = None, **filters: Any) -> JsonList:
        """Newest first, `most` at most; filters as `api.md` names them."""
        return list(self._pages(kind, filters, most))

    def show(self, kind: str, id_: str) -> Json:
        """One of them."""
        return self._transport.json("GET", f"{kind}/{id_}")

    def structure(self, model_id: str) -> Json:
        """The layers of an inspected model."""
        return self._transport.json("GET", f"models/{model_id}/structure")

    def delete(self, kind: str, id_: str) -> None:
        """Delete one; 409 while something else needs it."""
        self._transport.send("DELETE", f"{kind}/{id_}")

    def download(self, artifact_id: str, path: str | Path, progress: Progress | None = None) -> Path:
        """Download an artifact to a file, or into a directory under its own name.

        What an earlier, broken download left is used; the digest of the whole file is checked.

        Raises:
            DamagedDownload: the bytes are not those that the service promised.
        """
        artifact = self.show("artifacts", artifact_id)
        path = Path(path)
        target = path / artifact["filename"] if path.is_dir() else path
        download(self._transport.open, f"artifacts/{artifact_id}/content", artifact, target, progress)
        return target

    # --- catalog and fleet

    def formats(self) -> JsonList:
        """The formats that a model can be uploaded in."""
        return list(self._pages("formats", {}))

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

    # --- the project

    def usage(self, **query: str | None) -> Json:
        """What the project holds, may and had computed; `from`, `to` and `project` as the API names them."""
        return self._transport.json(
            "GET", "usage", params={name: text for name, text in query.items() if text is not None}
        )

    # --- webhooks

    def create_webhook(self, url: str) -> Json:
        """Tell `url` of the ends of the project's jobs; the answer's `secret` is shown this once."""
        return self._transport.json("POST", "webhooks", json={"url": url})

    def test_webhook(self, webhook_id: str, seconds: float = 30.0) -> Json:
        """Send a message that tells of nothing; its delivery, once the first attempt was made, or as it is after `seconds`."""
        path = f"webhooks/{webhook_id}"
        delivery = self._transport.json("POST", f"{path}/test")
        end = time.monotonic() + seconds
        while delivery["status"] == "waiting" and delivery["problem"] is None and time.monotonic() < end:
            time.sleep(0.25)
            found = (row for row in self._pages(f"{path}/deliveries", {}) if row["id"] == delivery["id"])
            delivery = next(found, delivery)
        return delivery

    # --- how requests are sent

    def _wait_inspected(self, path: str) -> Json:
        while True:
            subject = self._transport.patiently(lambda: self._poll(path))
            if subject["status"] == "rejected":
                raise ApiProblem(subject["problem"])
            if subject["status"] != "inspecting":
                return subject

    def _poll(self, path: str) -> Json:
        """A long poll: the service holds the answer until something changes."""
        return self._transport.json("GET", path, params={"wait": POLL_SECONDS})

    def _pages(self, path: str, filters: Mapping[str, Any], most: int | None = None) -> Iterator[Json]:
        query = {name: value for name, value in filters.items() if value is not None}
        left = most
        while left is None or left > 0:
            if left is not None:
                query["limit"] = min(left, 200)
            page = self._transport.json("GET", path, params=query)
            yield from page["items"]
            if page.get("next_cursor") is None:
                return
            query["cursor"] = page["next_cursor"]
            left = None if left is None else left - len(page["items"])

    def _stream_events(self, job_id: str, seen: str | None) -> Iterator[ServerEvent]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": seen} if seen is not None else {})}
        response = self._transport.patiently(lambda: self._transport.open(f"jobs/{job_id}/events", headers))
        try:
            yield from read_events(response.iter_lines())
        finally:
            response.close()
