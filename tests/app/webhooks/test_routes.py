"""`/v1/webhooks` and `burnish webhooks`."""

import json
import re
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app.cli import app
from app.config import get_settings
from app.webhooks.service import MOST_WEBHOOKS
from tests.app.api.support import Server, assert_problem, bearer, make_key, make_project
from tests.app.webhooks.receiver import Receiver


def test_the_secret_is_shown_once(api: TestClient) -> None:
    answer = api.post("/v1/webhooks", json={"url": "https://hooks.example.org/path"})
    assert answer.status_code == 201
    made = answer.json()
    assert made["secret"].startswith("whsec_")
    assert answer.headers["location"] == f"/v1/webhooks/{made['id']}"
    assert answer.headers["cache-control"] == "no-store"
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert api.get(answer.headers["location"]).json() == shown
    assert api.get("/v1/webhooks").json() == {"items": [shown], "next_cursor": None}
    assert made["secret"] not in api.get("/v1/audit", params={"subject": made["id"]}).text
    assert api.delete(answer.headers["location"]).status_code == 204
    assert_problem(api.get(answer.headers["location"]), 404, "not_found")


def test_addresses_that_are_refused(api_sqlite: TestClient) -> None:
    for url in (
        "ftp://example.org", "example.org", "https://", "https://user:password@example.org/", "https://example.org/#part",
        "https://10.0.0.1/", "https://[::1]/", "https://169.254.169.254/latest", "https://exa mple.org", "https://[::1",
    ):  # fmt: skip
        problem = assert_problem(api_sqlite.post("/v1/webhooks", json={"url": url}), 422, "invalid_params")
        assert "url" in str(problem)


def test_http_is_for_those_who_allow_it(api_sqlite: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert api_sqlite.post("/v1/webhooks", json={"url": "http://example.org"}).status_code == 201
    monkeypatch.setenv("BURNISH_WEBHOOK_HTTP", "false")
    get_settings.cache_clear()
    problem = assert_problem(
        api_sqlite.post("/v1/webhooks", json={"url": "http://example.org"}), 422, "invalid_params"
    )
    assert "https" in problem["detail"]


def test_they_are_for_the_admins_of_their_own_project(api_sqlite: TestClient) -> None:
    made = api_sqlite.post("/v1/webhooks", json={"url": "https://example.org"}).json()["id"]
    other = bearer(make_key("admin", project=make_project("other")))
    assert api_sqlite.get("/v1/webhooks", headers=other).json()["items"] == []
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/deliveries"), ("POST", "/test")):
        call = f"/v1/webhooks/{made}{path}"
        assert_problem(api_sqlite.request(method, call, headers=other), 404, "not_found")
        assert_problem(api_sqlite.request(method, call, headers=bearer(make_key("write"))), 403, "forbidden")


def test_a_project_has_a_handful(api_sqlite: TestClient) -> None:
    for _ in range(MOST_WEBHOOKS):
        assert api_sqlite.post("/v1/webhooks", json={"url": "https://example.org"}).status_code == 201
    assert_problem(api_sqlite.post("/v1/webhooks", json={"url": "https://example.org"}), 409, "conflict")


def test_a_test_is_sent_once_for_each_idempotency_key(api_sqlite: TestClient, receiver: Receiver) -> None:
    made = api_sqlite.post("/v1/webhooks", json={"url": receiver.url}).json()["id"]
    answers = [
        api_sqlite.post(f"/v1/webhooks/{made}/test", headers={"Idempotency-Key": "one"}).json()
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert answers[0]["type"] == "webhook.test"
    assert len(api_sqlite.get(f"/v1/webhooks/{made}/deliveries").json()["items"]) == 1
    receiver.wait(1)


def said(*command: str) -> Any:
    """What a command prints as JSON, among the log lines of the server in this process."""
    output = CliRunner().invoke(app, ["webhooks", *command, "--json"]).stdout
    start = re.search(r"^[\[{]", output, re.MULTILINE)
    assert start is not None, output
    return json.JSONDecoder().raw_decode(output, start.start())[0]


def test_the_command(server: Server, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("BURNISH_API_KEY", server.key)
    made = said("create", receiver.url)
    assert made["secret"].startswith("whsec_")
    runner = CliRunner()
    assert made["id"] in runner.invoke(app, ["webhooks", "list"]).stdout
    tested = runner.invoke(app, ["webhooks", "test", made["id"]])
    assert (tested.exit_code, "delivered" in tested.stdout) == (0, True)
    receiver.statuses = [500]
    assert runner.invoke(app, ["webhooks", "test", made["id"]]).exit_code == 1
    assert [row["answer_status"] for row in said("deliveries", made["id"])] == [500, 200]
    assert runner.invoke(app, ["webhooks", "delete", made["id"]]).exit_code == 0
    assert said("list") == []
