"""Projects and keys, made and changed over HTTP and by commands."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.auth.tables import DEFAULT_PROJECT
from app.cli import app as command_line
from app.config import Settings
from app.main import create_app
from tests.app.api.support import Server, assert_problem, bearer, make_key, make_project
from tests.app.users.routes import make_things

LIMITS = ("max_stored_bytes", "max_queued_jobs", "max_running_jobs", "max_requests_per_minute",
          "keep_jobs_days", "keep_steps_bytes")  # fmt: skip


@pytest.fixture
def api(burnish: Settings) -> Iterator[TestClient]:
    """A client with an admin key, on both databases in turn."""
    with TestClient(create_app(), headers=bearer(make_key("admin"))) as client:
        yield client


def burnish_command(*arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(command_line, list(arguments))
    assert done.exit_code == status, (done.output, done.exception)
    return done.stdout


def said(*arguments: str) -> Any:
    return json.loads(burnish_command(*arguments, "--json"))


def test_a_project_over_http(api: TestClient) -> None:
    made = api.post("/v1/projects", json={"name": "team", "max_queued_jobs": 5})
    assert made.status_code == 201
    at = made.headers["location"]
    assert api.get(at).json() == made.json()
    assert {name: made.json()[name] for name in LIMITS} == {**dict.fromkeys(LIMITS), "max_queued_jobs": 5}

    changed = api.patch(at, json={"name": "crew", "max_queued_jobs": None, "max_stored_bytes": 2**40})
    assert changed.json()["name"] == "crew"
    assert (changed.json()["max_queued_jobs"], changed.json()["max_stored_bytes"]) == (None, 2**40)
    assert api.patch(at, json={}).json() == changed.json()
    assert api.get(at).json() == changed.json()

    assert_problem(api.patch(at, json={"name": "default"}), 409, "conflict")
    for wrong in (
        {"max_queued_jobs": -1},
        {"max_jobs": 1},
        {"name": ""},
        {"name": None},
        {"max_stored_bytes": 2**70},
    ):
        assert_problem(api.patch(at, json=wrong), 422, "invalid_params")
    assert_problem(api.patch("/v1/projects/prj_none", json={}), 404, "not_found")
    assert api.delete(at).status_code == 204
    assert_problem(api.get(at), 404, "not_found")


def test_a_project_that_holds_something_stays(api: TestClient) -> None:
    project = make_project("full")
    make_things(project)
    refused = assert_problem(api.delete(f"/v1/projects/{project}"), 409, "conflict")
    for held in ("1 artifacts", "1 datasets", "1 jobs", "3 models", "1 uploads"):
        assert held in refused["detail"]
    assert_problem(api.delete(f"/v1/projects/{DEFAULT_PROJECT}"), 409, "conflict")


def test_a_key_is_shown_without_its_secret(api: TestClient) -> None:
    made = api.post("/v1/keys", json={"name": "ci", "scopes": ["read"]}).json()
    secret = made.pop("secret")
    assert api.get(f"/v1/keys/{made['id']}").json() == made
    assert secret not in api.get("/v1/keys").text


def test_projects_by_command(burnish_sqlite: Settings) -> None:
    made = said("projects", "create", "team", "--max-running-jobs", "2", "--keep-jobs-days", "30")
    assert (made["max_running_jobs"], made["keep_jobs_days"], made["max_queued_jobs"]) == (2, 30, None)
    id_ = made["id"]
    changed = said("projects", "set", id_, "--name", "crew", "--max-running-jobs", "default",
                   "--max-queued-jobs", "0")  # fmt: skip
    assert (changed["name"], changed["max_running_jobs"], changed["max_queued_jobs"]) == ("crew", None, 0)
    assert said("projects", "set", id_)["name"] == "crew"
    assert said("projects", "list")[0] == changed
    shown = said("projects", "show", id_)
    assert shown["usage"]["limits"]["max_queued_jobs"] is None
    assert "consumed" in burnish_command("projects", "show", id_)
    burnish_command("projects", "set", id_, "--max-queued-jobs", "many", status=2)
    assert said("projects", "delete", id_) == {"deleted": id_}
    assert [row["name"] for row in said("projects", "list")] == ["default"]


def test_keys_by_command(burnish_sqlite: Settings) -> None:
    made = said("keys", "create", "--name", "ci", "--scope", "admin", "--expires", "2120-01-01")
    assert made["expires_at"] == "2120-01-01T00:00:00.000Z"
    with TestClient(create_app(), headers=bearer(made["secret"])) as client:
        assert client.get(f"/v1/keys/{made['id']}").json()["expires_at"] == made["expires_at"]
        kept = client.get("/v1/audit", params={"subject": made["id"]}).json()["items"]
    assert [(one["action"], one["key"], one["request_id"]) for one in kept] == [("key.created", None, None)]
    both = CliRunner().invoke(
        command_line, ["keys", "create", "--name", "x", "--days", "1", "--expires", "2120-01-01"]
    )
    assert both.exit_code == 1


def test_usage_and_audit_by_command(server: Server) -> None:
    asked = {"BURNISH_URL": f"http://{server.host}:{server.port}", "BURNISH_API_KEY": server.key}

    def burnish(*arguments: str) -> str:  # in a process of its own: the server's log lines are in ours
        command = [sys.executable, "-m", "app.cli", *arguments]
        environment = {**os.environ, **asked}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    used = json.loads(burnish("usage", "--from", "2020-01-01T00:00:00Z", "--json"))
    assert used["consumed"]["from"] == "2020-01-01T00:00:00.000Z"
    assert "compute_seconds" in burnish("usage", "--project", make_project("other"))
    model = server.client.post("/v1/models", files={"file": ("m.onnx", b"abc")}).json()["id"]
    entries = json.loads(burnish("audit", "--action", "model.created", "--json"))
    assert [one["subject"] for one in entries] == [model]
    assert "model.created" in burnish("audit", "--limit", "1")
