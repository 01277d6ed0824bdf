"""Keys, scopes, projects."""

from datetime import UTC, datetime, timedelta

import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from sqlalchemy import select, text, update

from app.auth.tables import ApiKey
from app.config import Settings
from app.db import db_now, get_engine, transaction
from app.main import create_app
from tests.app.api.support import assert_problem, bearer, make_key, make_project

OPEN = {"/healthz", "/readyz"}


def test_every_route_needs_a_key(burnish_sqlite: Settings) -> None:
    app = create_app()
    walked = 0
    with TestClient(app) as client:
        for context in iter_route_contexts(app.routes):
            for method in context.methods:
                path = context.path.format(**dict.fromkeys(context.param_convertors, "x"))
                response = client.request(method, path)
                if context.path in OPEN:
                    assert response.status_code == 200
                else:
                    assert response.status_code == 401, (method, path)
                    assert response.headers["www-authenticate"] == "Bearer"
                    if method != "HEAD":
                        assert_problem(response, 401, "unauthorized")
                walked += 1
    assert walked >= 20


@pytest.mark.parametrize(
    "header",
    [
        "Bearer brn_nope_nope",
        "Bearer nonsense",
        "Bearer brn__",
        "Bearer brn_é_x".encode().decode("latin-1"),
        "Basic YTpi",
        "Bearer",
        "Bearer ",
    ],
)
def test_unknown_keys(api_sqlite: TestClient, header: str) -> None:
    response = api_sqlite.get("/v1/models", headers={"Authorization": header.encode("latin-1")})  # type: ignore[dict-item]
    assert_problem(response, 401, "unauthorized")


def test_wrong_secret_of_a_known_key(api: TestClient) -> None:
    key = make_key("read")
    changed = key[:-1] + ("A" if key[-1] != "A" else "B")
    assert api.get("/v1/models", headers=bearer(key)).status_code == 200
    assert_problem(api.get("/v1/models", headers=bearer(changed)), 401, "unauthorized")


@pytest.mark.parametrize(("scope", "allowed"), [("read", 1), ("write", 2), ("admin", 3)])
def test_scopes_imply_those_before_them(api: TestClient, scope: str, allowed: int) -> None:
    headers = bearer(make_key(scope))  # type: ignore[arg-type]
    calls = [("GET", "/v1/models"), ("DELETE", "/v1/models/mdl_none"), ("GET", "/v1/keys")]
    codes = [api.request(method, path, headers=headers).status_code for method, path in calls]
    assert [code == 403 for code in codes] == [index >= allowed for index in range(3)]


def test_a_made_key_works_until_revoked_and_only_its_hash_is_kept(api: TestClient) -> None:
    made = api.post("/v1/keys", json={"name": "ci", "scopes": ["write", "read"]})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    body = made.json()
    assert body["scopes"] == ["read", "write"]
    secret = body["secret"]
    assert secret.startswith(f"brn_{body['id'].removeprefix('key_')}_")
    assert api.get("/v1/models", headers=bearer(secret)).status_code == 200

    listed = api.get("/v1/keys").json()["items"]
    assert listed[0]["id"] == body["id"]
    assert "secret" not in listed[0]
    with get_engine().connect() as connection:
        rows = str(connection.execute(text("SELECT * FROM api_keys")).all())
        assert secret.split("_", 2)[2] not in rows
        assert connection.execute(text("SELECT count(*) FROM idempotency_keys")).scalar() == 0

    assert api.delete(made.headers["location"]).status_code == 204
    assert_problem(api.get("/v1/models", headers=bearer(secret)), 401, "unauthorized")
    assert api.delete(made.headers["location"]).status_code == 204
    assert_problem(api.delete("/v1/keys/key_none"), 404, "not_found")


def test_expired_key(api: TestClient) -> None:
    key = make_key("read")
    with transaction() as session:
        session.execute(
            update(ApiKey).where(ApiKey.id == f"key_{key.split('_')[1]}").values(expires_at=db_now(-1))
        )
    assert_problem(api.get("/v1/models", headers=bearer(key)), 401, "unauthorized")
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    response = api.post("/v1/keys", json={"name": "k", "scopes": ["read"], "expires_at": past})
    assert assert_problem(response, 422, "invalid_params")["param"] == "expires_at"


def test_last_use_is_written_at_most_once_a_minute(api: TestClient) -> None:
    key = make_key("read")
    key_id = f"key_{key.split('_')[1]}"

    def last_used() -> datetime | None:
        with transaction(readonly=True) as session:
            return session.scalars(select(ApiKey.last_used_at).where(ApiKey.id == key_id)).one()

    assert last_used() is None
    api.get("/v1/models", headers=bearer(key))
    first = last_used()
    assert first is not None
    api.get("/v1/models", headers=bearer(key))
    assert last_used() == first
    with transaction() as session:
        session.execute(update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=db_now(-61)))
    api.get("/v1/models", headers=bearer(key))
    assert last_used() >= first  # type: ignore[operator]


def test_projects_do_not_see_each_other(api: TestClient) -> None:
    project = api.post("/v1/projects", json={"name": "other"}).json()
    made = api.post("/v1/keys", json={"name": "k", "scopes": ["admin"], "project": project["id"]})
    assert made.status_code == 201
    assert made.json()["project_id"] == project["id"]
    other = bearer(made.json()["secret"])
    model = api.post("/v1/models", files={"file": ("m.onnx", b"abc")}).json()
    assert api.get("/v1/models", headers=other).json()["items"] == []
    assert api.get("/v1/usage", headers=other).json()["stored_bytes"] == 0
    assert_problem(api.get(f"/v1/models/{model['id']}", headers=other), 404, "not_found")
    assert_problem(api.delete(f"/v1/models/{model['id']}", headers=other), 404, "not_found")
    mine = api.get("/v1/keys").json()["items"]
    assert_problem(api.delete(f"/v1/keys/{mine[-1]['id']}", headers=other), 404, "not_found")
    assert [key["project_id"] for key in api.get("/v1/keys", headers=other).json()["items"]] == [
        project["id"]
    ]


def test_what_concerns_the_installation_needs_the_default_project(api: TestClient) -> None:
    other = bearer(make_key("admin", project=make_project("other")))
    for method, path, body in [
        ("POST", "/v1/projects", {"name": "x"}),
        ("GET", "/v1/projects", None),
        ("GET", "/metrics", None),
        ("POST", "/v1/keys", {"name": "x", "scopes": ["read"], "project": "prj_default"}),
    ]:
        assert_problem(api.request(method, path, json=body, headers=other), 403, "forbidden")


def test_project_names_are_unique(api: TestClient) -> None:
    assert api.post("/v1/projects", json={"name": "one"}).status_code == 201
    assert_problem(api.post("/v1/projects", json={"name": "one"}), 409, "conflict")
    assert [project["name"] for project in api.get("/v1/projects").json()["items"]] == ["one", "default"]
