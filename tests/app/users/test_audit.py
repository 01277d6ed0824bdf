"""Every change leaves an entry: who, what, in which request. None can be forgotten: every route is asked."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from structlog.testing import capture_logs

from app.audit.tables import AuditEntry
from app.auth.tables import DEFAULT_PROJECT
from app.config import Settings
from app.db import transaction
from app.main import create_app
from tests.app.api.support import assert_problem, bearer, make_key, make_project
from tests.app.jobs.factories import RUNTIME, make_model, offer, optimize
from tests.app.users.routes import TABLE, make_things

CHANGES_NOTHING = {
    ("POST", "/v1/models/{model_id}/validate"),
    ("PATCH", "/v1/uploads/{upload_id}"),  # the bytes of an upload whose making is in the log
}


@pytest.fixture
def api(burnish_sqlite: Settings) -> Iterator[TestClient]:
    """A client without a key."""
    with TestClient(create_app()) as client:
        yield client


def entries() -> list[AuditEntry]:
    with transaction() as session:
        return list(session.scalars(select(AuditEntry).order_by(AuditEntry.created_at, AuditEntry.id)))


def test_every_route_that_changes_something_says_so(api: TestClient) -> None:
    secret = make_key("admin")
    key = {**bearer(secret), "X-Request-ID": "the-request"}
    changing = {route for route in TABLE if route[0] not in ("GET", "HEAD")}
    assert {route for route in TABLE if TABLE[route].action} == changing - CHANGES_NOTHING
    for method, path in sorted(changing - CHANGES_NOTHING):
        call, things = TABLE[method, path], make_things()
        if call.prepare is not None:
            call.prepare(things)
        before = {entry.id for entry in entries()}
        arguments = call.ways[0](things)
        headers = {**arguments.pop("headers", {}), **key}
        answer = api.request(method, path.format(**things), headers=headers, **arguments)
        assert answer.status_code < 300, (path, answer.text)
        [entry] = [entry for entry in entries() if entry.id not in before]
        assert entry.action == call.action, path
        assert entry.key_id == f"key_{secret.split('_')[1]}"
        assert entry.request_id == "the-request"
        named = [answer.json()["id"]] if answer.content else []
        assert entry.subject_id in [*named, *path.format(**things).split("/")], path
        assert "brn_" not in json.dumps(entry.detail)


def test_what_failed_left_nothing(api: TestClient) -> None:
    key = bearer(make_key("admin"))
    before = len(entries())
    assert_problem(api.delete("/v1/models/mdl_none", headers=key), 404, "not_found")
    assert_problem(api.post("/v1/keys", json={"name": "x", "scopes": []}, headers=key), 422, "invalid_params")
    assert len(entries()) == before


def test_a_replayed_request_changed_nothing(api: TestClient) -> None:
    key = {**bearer(make_key("admin")), "Idempotency-Key": "once"}
    offer(RUNTIME)
    body = optimize(make_model())
    before = len(entries())
    for _ in range(2):
        assert api.post("/v1/jobs", json=body, headers=key).status_code == 202
    assert len(entries()) == before + 1


def test_denied_attempts_are_in_the_stream_of_log_lines(api: TestClient) -> None:
    writer = make_key("write")
    before = len(entries())
    with capture_logs() as lines:
        assert_problem(api.get("/v1/keys", headers=bearer(writer)), 403, "forbidden")
        assert_problem(api.get("/v1/keys", headers=bearer("brn_x_y")), 401, "unauthorized")
    denied = [(line["status"], line["key"]) for line in lines if line["event"] == "request"]
    assert denied == [(403, f"key_{writer.split('_')[1]}"), (401, None)]
    assert len(entries()) == before


def test_the_log_is_read_by_filter_and_in_pages(api: TestClient) -> None:
    secret = make_key("admin")
    key = bearer(secret)
    models = [
        api.post("/v1/models", files={"file": ("m.onnx", bytes([n]))}, headers=key).json()["id"]
        for n in range(3)
    ]
    api.delete(f"/v1/models/{models[0]}", headers=key)

    def read(**query: Any) -> list[dict[str, Any]]:
        return list(api.get("/v1/audit", params=query, headers=key).json()["items"])

    assert [one["subject"] for one in read(action="model.created")] == models[::-1]
    assert [one["action"] for one in read(subject=models[0])] == ["model.deleted", "model.created"]
    mine = read(key=f"key_{secret.split('_')[1]}")
    assert len(mine) == 4
    assert mine[0]["detail"] == {"name": "m.onnx"}
    first = api.get("/v1/audit", params={"limit": 3}, headers=key).json()
    rest = api.get("/v1/audit", params={"cursor": first["next_cursor"]}, headers=key).json()
    assert [*first["items"], *rest["items"]] == read()
    assert rest["items"][-1]["key"] is None  # the first key came from a command
    for scope in ("read", "write"):
        answer = api.get("/v1/audit", headers=bearer(make_key(scope)))  # type: ignore[arg-type]
        assert_problem(answer, 403, "forbidden")


def test_a_deleted_projects_log_stays_with_the_default_project(api: TestClient) -> None:
    key = bearer(make_key("admin"))
    project = make_project("short-lived")
    made = make_key("admin", project=project)
    assert api.delete(f"/v1/projects/{project}", headers=key).status_code == 204
    kept = api.get("/v1/audit", headers=key).json()["items"]
    assert kept[0]["action"] == "project.deleted"
    assert {one["action"] for one in kept if one["subject"] in (project, f"key_{made.split('_')[1]}")} == {
        "project.created",
        "project.deleted",
        "key.created",
    }
    assert_problem(api.get("/v1/models", headers=bearer(made)), 401, "unauthorized")
    assert {entry.project_id for entry in entries()} == {DEFAULT_PROJECT}
