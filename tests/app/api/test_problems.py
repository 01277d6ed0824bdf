"""Every error is a problem+json, whoever raises it."""

import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from app.config import Settings, get_settings
from app.db import get_engine
from app.main import create_app
from tests.app.api.support import Server, assert_problem, bearer, make_key


def test_unknown_path(api_sqlite: TestClient) -> None:
    assert "/nowhere" in assert_problem(api_sqlite.get("/nowhere"), 404, "not_found")["detail"]


def test_unknown_method_names_the_known_ones(api_sqlite: TestClient) -> None:
    response = api_sqlite.put("/v1/models")
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "GET, POST"


def test_unknown_body_field(api_sqlite: TestClient) -> None:
    body = {"name": "k", "scopes": ["read"], "colour": "red"}
    problem = assert_problem(api_sqlite.post("/v1/keys", json=body), 422, "invalid_params")
    assert problem["param"] == "colour"
    assert [error["path"] for error in problem["errors"]] == ["colour"]


def test_every_invalid_field_is_named_by_its_path(api_sqlite: TestClient) -> None:
    body = {"name": "", "scopes": ["read", "fly"]}
    problem = assert_problem(api_sqlite.post("/v1/keys", json=body), 422, "invalid_params")
    assert [error["path"] for error in problem["errors"]] == ["name", "scopes[1]"]
    assert problem["param"] == "name"


def test_unknown_query_parameter(api_sqlite: TestClient) -> None:
    for path in ("/v1/models?limt=3", "/v1/passes?page=2", "/v1/models/mdl_x?wiat=3", "/v1/keys?x"):
        assert_problem(api_sqlite.get(path), 422, "invalid_params")


def test_not_json(api_sqlite: TestClient) -> None:
    response = api_sqlite.post("/v1/keys", content=b"{bad", headers={"content-type": "application/json"})
    assert "not JSON" in assert_problem(response, 422, "invalid_params")["detail"]


def test_a_text_that_postgresql_cannot_hold(api: TestClient) -> None:
    response = api.post("/v1/projects", json={"name": "a\0b"})
    assert_problem(response, 422, "invalid_params")
    if get_engine().dialect.name == "postgresql":
        assert_problem(api.get("/v1/models/mdl_%00"), 422, "invalid_params")


def test_a_body_nested_too_deeply(api_sqlite: TestClient) -> None:
    headers = {"content-type": "application/json"}
    response = api_sqlite.post("/v1/keys", content=b"[" * 500_000, headers=headers)
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("chunked", [False, True])
def test_json_body_limit(api_sqlite: TestClient, chunked: bool) -> None:
    piece = b'{"name": "' + b"x" * 600_000
    content = iter([piece, piece]) if chunked else piece * 2
    response = api_sqlite.post("/v1/keys", content=content, headers={"content-type": "application/json"})
    assert_problem(response, 413, "payload_too_large")


def test_json_body_limit_on_a_socket(server: Server) -> None:
    def body():
        yield b'{"name": "'
        for _ in range(64):
            yield b"x" * 65536

    headers = {"content-type": "application/json"}
    assert_problem(server.client.post("/v1/keys", content=body(), headers=headers), 413, "payload_too_large")
    response = server.client.post("/v1/keys", content=b" " * 5_000_000, headers=headers)
    assert_problem(response, 413, "payload_too_large")


def test_unexpected_error_tells_the_log_and_not_the_client(burnish_sqlite: Settings) -> None:
    app = create_app()

    @app.get("/boom")
    def boom() -> None:
        raise RuntimeError("open sesame")

    with TestClient(app) as client, capture_logs() as lines:
        response = client.get("/boom")
    logged = [line for line in lines if line["event"] == "unexpected_error"]
    assert [line["exc_info"] for line in logged] == [True]
    problem = assert_problem(response, 500, "internal")
    assert "sesame" not in response.text
    assert "Traceback" not in response.text
    assert problem["hint"]


def test_unreachable_database_is_503(burnish_sqlite: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app()
    client = TestClient(app)  # without its lifespan: the outage begins after the start
    monkeypatch.setenv("BURNISH_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:9/none")
    get_engine().dispose()
    get_settings.cache_clear()
    get_engine.cache_clear()
    assert_problem(client.get("/v1/models", headers=bearer("brn_a_b")), 503, "unavailable")
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["database"]["ok"] is False
    assert ready.json()["storage"]["ok"] is True


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1.2:3_x", True), ("with space", False), ("x" * 129, False), ("", False)]
)
def test_request_id(api_sqlite: TestClient, given: str, kept: bool) -> None:
    answered = api_sqlite.get("/healthz", headers={"X-Request-ID": given}).headers["x-request-id"]
    assert (answered == given) is kept
    assert answered


def test_access_line(api_sqlite: TestClient) -> None:
    key = make_key("read")
    with capture_logs() as lines:
        api_sqlite.get("/v1/models/mdl_none", headers=bearer(key))
    access = [line for line in lines if line["event"] == "request"]
    assert len(access) == 1
    line = access[0]
    assert (line["method"], line["route"], line["status"]) == ("GET", "/v1/models/{model_id}", 404)
    assert line["project"] == "prj_default"
    assert line["key"] == f"key_{key.split('_')[1]}"
    assert line["ms"] >= 0
    assert key not in str(lines)
