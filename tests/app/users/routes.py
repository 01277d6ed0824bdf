"""How to call every route of the service: what its path, query and body take. A new route needs an entry here.

`Call.ways` are made with the ids of a project's things, so that the same request can be sent with somebody else's ids and
with ids that never existed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from app.artifacts.tables import Artifact
from app.auth.tables import DEFAULT_PROJECT
from app.db import db_now, transaction
from app.ids import new_id
from app.jobs import service as jobs
from app.jobs.schemas import read_request
from app.uploads.tables import Upload
from app.webhooks.tables import Webhook
from tests.app.api.support import make_key, make_project
from tests.app.jobs.factories import (
    RUNTIME,
    claim,
    finish,
    make_artifact,
    make_dataset,
    make_model,
    offer,
    optimize,
)

Things = Mapping[str, str]  # a parameter's name in a path -> the id
Way = Callable[[Things], dict[str, Any]]  # the arguments of a request
Need = Literal["read", "write", "admin", "installation"]


def plain(things: Things) -> dict[str, Any]:
    """A request with nothing but its path."""
    return {}


@dataclass(frozen=True)
class Call:
    """What a route needs, how it is asked, and what a change by it is called in the audit log."""

    needs: Need | None  # None: it is open to everybody
    ways: list[Way] = field(default_factory=lambda: [plain])
    action: str | None = None  # of a route that changes something
    prepare: Callable[[Things], None] | None = None  # before the owner's call can succeed


def end_job(things: Things) -> None:
    attempt = claim(things["job_id"])
    assert attempt is not None
    assert finish(things["job_id"], attempt)


def _filtered(**names: str) -> list[Way]:
    """A list, asked for everything and then through each filter; values are names of things, or given as they are."""
    filters = [lambda things, k=k, v=v: {"params": {k: things.get(v, v)}} for k, v in names.items()]
    return [plain, *filters]


def _file(things: Things) -> dict[str, Any]:
    return {"files": {"file": ("some.bin", b"bytes")}}


def _from_upload(things: Things) -> dict[str, Any]:
    return {"json": {"upload": things["upload_id"]}}


def _own_model(**named: Callable[[Things], Any]) -> Way:
    """A job over a model of whoever asks, that names other things."""
    return lambda things: {
        "path": {"model_id": things["own_model_id"]},
        "json": optimize(things["own_model_id"], **{name: make(things) for name, make in named.items()}),
    }


NAMING_DATASETS = [
    _own_model(inputs=lambda things: {"calibration": things["dataset_id"]}),
    _own_model(evaluation=lambda things: {"dataset": things["dataset_id"], "metric": "top1"}),
    _own_model(
        recipe=lambda things: {
            "schema": 1,
            "passes": [{"pass": "quantize-static", "inputs": {"calibration": things["dataset_id"]}}],
        }
    ),
]

TABLE: dict[tuple[str, str], Call] = {
    ("GET", "/healthz"): Call(None),
    ("GET", "/readyz"): Call(None),
    ("GET", "/metrics"): Call("installation"),
    ("GET", "/openapi.json"): Call("read"),
    ("GET", "/v1/formats"): Call("read"),
    ("GET", "/v1/passes"): Call("read"),
    ("GET", "/v1/runtimes"): Call("read"),
    ("GET", "/v1/metrics"): Call("read"),
    ("GET", "/v1/workers"): Call("read"),
    ("GET", "/v1/signing-keys"): Call("read"),
    ("POST", "/v1/uploads"): Call(
        "write", [lambda things: {"json": {"name": "m.onnx", "size_bytes": 5}}], "upload.created"
    ),
    ("GET", "/v1/uploads"): Call("read", _filtered(name="upload", sha256="0" * 64)),
    ("GET", "/v1/uploads/{upload_id}"): Call("read"),
    ("HEAD", "/v1/uploads/{upload_id}"): Call("read"),
    # no change of its own: the upload's making and what becomes of it are in the log
    ("PATCH", "/v1/uploads/{upload_id}"): Call(
        "write",
        [
            lambda things: {
                "headers": {"Upload-Offset": "0", "Content-Type": "application/partial-upload"},
                "content": b"12345",
            }
        ],
    ),
    ("DELETE", "/v1/uploads/{upload_id}"): Call("write", action="upload.deleted"),
    ("POST", "/v1/models"): Call("write", [_file, _from_upload], "model.created"),
    ("GET", "/v1/models"): Call("read", _filtered(name="digits", status="ready")),
    ("GET", "/v1/models/{model_id}"): Call("read", [plain, lambda things: {"params": {"wait": 0.01}}]),
    ("GET", "/v1/models/{model_id}/structure"): Call("read"),
    ("DELETE", "/v1/models/{model_id}"): Call("write", action="model.deleted"),
    ("POST", "/v1/models/{model_id}/validate"): Call(  # changes nothing
        "read", [lambda things: {"json": optimize(things["model_id"])}, *NAMING_DATASETS]
    ),
    ("POST", "/v1/datasets"): Call("write", [_file, _from_upload], "dataset.created"),
    ("GET", "/v1/datasets"): Call("read", _filtered(name="digits", status="ready")),
    ("GET", "/v1/datasets/{dataset_id}"): Call("read", [plain, lambda things: {"params": {"wait": 0.01}}]),
    ("DELETE", "/v1/datasets/{dataset_id}"): Call("write", action="dataset.deleted"),
    ("POST", "/v1/jobs"): Call(
        "write",
        [
            lambda things: {"json": optimize(things["model_id"])},
            lambda things: {"json": optimize(things["artifact_id"])},
            *NAMING_DATASETS,
        ],
        "job.created",
    ),
    ("GET", "/v1/jobs"): Call(
        "read", _filtered(subject="model_id", parent="job_id", status="queued", kind="optimize", label="a=b")
    ),
    ("GET", "/v1/jobs/{job_id}"): Call("read", [plain, lambda things: {"params": {"wait": 0.01}}]),
    ("GET", "/v1/jobs/{job_id}/events"): Call(
        "read",
        [
            plain,
            lambda things: {"headers": {"Last-Event-ID": "1"}},
            lambda things: {"params": {"last_event_id": 1}},
        ],
    ),
    ("GET", "/v1/jobs/{job_id}/logs"): Call("read"),
    ("GET", "/v1/jobs/{job_id}/artifacts"): Call("read"),
    ("POST", "/v1/jobs/{job_id}/cancel"): Call("write", action="job.cancelled"),
    ("POST", "/v1/jobs/{job_id}/retry"): Call("write", action="job.created", prepare=end_job),
    ("DELETE", "/v1/jobs/{job_id}"): Call("write", action="job.deleted", prepare=end_job),
    ("GET", "/v1/artifacts"): Call("read", _filtered(job="job_id", kind="engine")),
    ("GET", "/v1/artifacts/{artifact_id}"): Call("read"),
    ("GET", "/v1/artifacts/{artifact_id}/content"): Call(
        "read",
        [
            plain,
            lambda things: {"headers": {"If-None-Match": f'"{things["artifact_digest"]}"'}},
            lambda things: {"headers": {"If-None-Match": "*"}},
            lambda things: {"headers": {"Range": "bytes=0-0", "If-Range": f'"{things["artifact_digest"]}"'}},
        ],
    ),
    ("HEAD", "/v1/artifacts/{artifact_id}/content"): Call("read"),
    ("GET", "/v1/artifacts/{artifact_id}/validity"): Call("read"),
    ("POST", "/v1/artifacts/{artifact_id}/rebuild"): Call(
        "write", [lambda things: {"json": {}}, lambda things: {"json": {"name": "again"}}], "job.created"
    ),
    ("DELETE", "/v1/artifacts/{artifact_id}"): Call("write", action="artifact.deleted"),
    ("POST", "/v1/keys"): Call(
        "admin", [lambda things: {"json": {"name": "k", "scopes": ["read"]}}], "key.created"
    ),
    ("GET", "/v1/keys"): Call("admin"),
    ("GET", "/v1/keys/{key_id}"): Call("admin"),
    ("DELETE", "/v1/keys/{key_id}"): Call("admin", action="key.revoked"),
    ("POST", "/v1/projects"): Call(
        "installation", [lambda things: {"json": {"name": new_id("team")}}], "project.created"
    ),
    ("GET", "/v1/projects"): Call("installation"),
    ("GET", "/v1/projects/{project_id}"): Call("installation"),
    ("PATCH", "/v1/projects/{project_id}"): Call(
        "installation", [lambda things: {"json": {"max_queued_jobs": 7}}], "project.changed"
    ),
    ("DELETE", "/v1/projects/{project_id}"): Call("installation", action="project.deleted"),
    ("POST", "/v1/webhooks"): Call(
        "admin", [lambda things: {"json": {"url": "https://93.184.216.34/hook"}}], "webhook.created"
    ),
    ("GET", "/v1/webhooks"): Call("admin"),
    ("GET", "/v1/webhooks/{webhook_id}"): Call("admin"),
    ("GET", "/v1/webhooks/{webhook_id}/deliveries"): Call("admin"),
    ("POST", "/v1/webhooks/{webhook_id}/test"): Call("admin", action="webhook.tested"),
    ("DELETE", "/v1/webhooks/{webhook_id}"): Call("admin", action="webhook.deleted"),
    ("GET", "/v1/usage"): Call(  # without an end, an answer tells the time
        "read",
        [lambda things: {"params": {"from": "2020-01-01T00:00:00Z", "to": "2120-01-01T00:00:00Z"}}],
    ),
    ("GET", "/v1/audit"): Call("admin", _filtered(action="job.created", subject="job_id", key="key_id")),
}


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """Every method and path of the application."""
    return sorted(
        (method, context.path)
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
    )


def make_job(project: str = DEFAULT_PROJECT) -> str:
    """A queued job over a model of its own."""
    request = read_request(optimize(make_model(project)))
    with transaction() as session:
        return jobs.submit(session, project, request).id


def make_things(project: str = DEFAULT_PROJECT) -> dict[str, str]:
    """One of each kind in a project, by the parameter's name in paths; `project_id` is of an empty one.

    `own_model_id` is a model of whoever asks: a test that lets others ask puts one of theirs there.
    """
    offer(RUNTIME)
    job = make_job(project)
    artifact = make_artifact(job, new_id("bytes").encode())
    upload = new_id("upl")
    with transaction() as session:
        digest = session.get_one(Artifact, artifact).digest
        webhook = Webhook(id=new_id("whk"), project_id=project, url="https://x.invalid/", secret="whsec_")
        session.add(webhook)
        session.add(
            Upload(id=upload, project_id=project, name="upload", size_bytes=5, expires_at=db_now(3600))
        )
    return {
        "model_id": make_model(project),
        "own_model_id": make_model(project),
        "dataset_id": make_dataset(project),
        "job_id": job,
        "artifact_id": artifact,
        "artifact_digest": digest,
        "upload_id": upload,
        "webhook_id": webhook.id,
        "key_id": f"key_{make_key('read', project=project).split('_')[1]}",
        "project_id": make_project(new_id("empty")),
    }
