"""Every route of the service, asked with every kind of key: what is another project's is as if it did not exist."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from app.auth.tables import DEFAULT_PROJECT, ApiKey
from app.config import Settings
from app.db import db_now, get_engine, transaction
from app.ids import new_id
from app.main import create_app
from app.tables import metadata
from tests.app.api.support import assert_problem, bearer, make_key, make_project
from tests.app.jobs.factories import RUNTIME, make_model, offer, optimize
from tests.app.users.routes import TABLE, Call, Way, make_things, routes

SCOPES = ("read", "write", "admin")
OPEN = {route for route, call in TABLE.items() if call.needs is None}
# What everybody with a key may see: it belongs to no project.
COMMON = {"/openapi.json", "/v1/passes", "/v1/runtimes", "/v1/metrics", "/v1/workers"}


@pytest.fixture
def api(burnish_sqlite: Settings) -> Iterator[TestClient]:
    """A client without a key: each request brings its own."""
    with TestClient(create_app()) as client:
        yield client


@pytest.fixture
def things(api: TestClient) -> dict[str, str]:
    """What the default project holds."""
    return make_things()


@pytest.fixture
def other(api: TestClient) -> str:
    """Another project."""
    return make_project("other")


@pytest.fixture
def strangers(other: str) -> dict[str, dict[str, str]]:
    """Keys of the other project, by scope."""
    return {scope: bearer(make_key(scope, project=other)) for scope in SCOPES}


def never(things: dict[str, str]) -> dict[str, str]:
    """Ids of the same kinds that never existed; what is the asker's own stays."""
    made_up = {name: new_id(id_.partition("_")[0]) for name, id_ in things.items()}
    return {**made_up, "artifact_digest": "0" * 64, "own_model_id": things["own_model_id"]}


def ask(
    api: TestClient, route: tuple[str, str], way: Way, things: dict[str, str], key: dict[str, str]
) -> Any:
    method, path = route
    arguments = way(things)
    things = {**things, **arguments.pop("path", {})}
    headers = {**arguments.pop("headers", {}), **key}
    return api.request(method, path.format(**things), headers=headers, **arguments)


def seen(answer: Any, things: dict[str, str]) -> tuple[int, dict[str, str], str]:
    """An answer without what may differ: its own ids, and those that were asked for."""
    request_id = answer.headers["x-request-id"]
    text = answer.text.replace(request_id, "REQUEST")
    headers = json.dumps({k: v for k, v in answer.headers.items() if k not in ("x-request-id", "date")})
    for name, id_ in things.items():
        text, headers = text.replace(id_, name), headers.replace(id_, name)
    return answer.status_code, json.loads(headers), text


def owned_rows() -> dict[str, list[Any]]:
    """Every row of the default project, in every table."""
    found = {}
    with get_engine().connect() as connection:
        for name, table in metadata.tables.items():
            if "project_id" in table.columns:
                own = select(table).where(table.c.project_id == DEFAULT_PROJECT)
                found[name] = sorted(map(repr, connection.execute(own)))
    return found


def test_every_route_has_its_entry(burnish_sqlite: Settings) -> None:
    assert set(routes(create_app())) == set(TABLE), "say in routes.py how the route is called"


def test_without_a_valid_key_nothing_answers(api: TestClient, things: dict[str, str]) -> None:
    expired, revoked = make_key("admin"), make_key("admin")
    known = make_key("admin")
    with transaction() as session:
        for key, column in ((expired, "expires_at"), (revoked, "revoked_at")):
            id_ = f"key_{key.split('_')[1]}"
            session.execute(update(ApiKey).where(ApiKey.id == id_).values({column: db_now(-1)}))
    wrong = known[:-1] + ("A" if known[-1] != "A" else "B")
    bad = [
        {},
        {"Authorization": "Basic YTpi"},
        *map(bearer, ("nonsense", "brn__", "brn_x_y", wrong, expired, revoked)),
    ]
    for route in TABLE:
        for way in TABLE[route].ways:
            answers = [seen(ask(api, route, way, things, key), things) for key in bad]
            if route in OPEN:
                assert {answer[0] for answer in answers} == {200}, route
                continue
            assert {answer[0] for answer in answers} == {401}, route
            # a key that was, one that never was, and one that is but for its last character: nobody can tell
            assert len({str(answer) for answer in answers[2:]}) == 1, route


@pytest.mark.parametrize("scope", SCOPES)
def test_a_scope_opens_what_it_says_and_no_more(
    api: TestClient, things: dict[str, str], strangers: dict[str, dict[str, str]], scope: str
) -> None:
    owner = bearer(make_key(scope))  # type: ignore[arg-type]
    made_up = never(things)
    for route, call in TABLE.items():
        if call.needs is None:
            continue
        own, other = (ask(api, route, call.ways[0], made_up, key) for key in (owner, strangers[scope]))
        allowed = _allows(scope, call)
        assert (own.status_code == 403) == (not allowed), (route, own.text)
        assert own.status_code < 500, route
        allowed_elsewhere = allowed and call.needs != "installation"
        assert (other.status_code == 403) == (not allowed_elsewhere), (route, other.text)


def _allows(scope: str, call: Call) -> bool:
    needs = "admin" if call.needs == "installation" else call.needs
    return SCOPES.index(scope) >= SCOPES.index(str(needs))


def test_another_projects_things_are_as_if_they_had_never_been(
    api: TestClient, things: dict[str, str], strangers: dict[str, dict[str, str]], other: str
) -> None:
    before = owned_rows()
    things["own_model_id"] = make_model(other)
    key, made_up = strangers["admin"], never(things)
    named = 0
    for route, call in TABLE.items():
        for way in call.ways:
            theirs = ask(api, route, way, things, key)
            nobodys = ask(api, route, way, made_up, key)
            if _made(theirs):
                continue  # it named nothing, and made something of the stranger's own
            assert seen(theirs, things) == seen(nobodys, made_up), route
            if "{" in route[1]:
                assert theirs.status_code in (403, 404), route
                named += 1
    assert named > 20
    assert owned_rows() == before


def _made(answer: Any) -> bool:
    return answer.status_code in (201, 202)


def test_lists_hold_the_own_project_alone(
    api: TestClient, things: dict[str, str], strangers: dict[str, dict[str, str]]
) -> None:
    owner = bearer(make_key("admin"))
    lists = [
        (route, way)
        for route, call in TABLE.items()
        if route[0] == "GET" and "{" not in route[1] and call.needs is not None and route[1] not in COMMON
        for way in call.ways
    ]
    shown = "".join(ask(api, route, way, things, owner).text for route, way in lists)
    ids = [id_ for name, id_ in things.items() if name not in ("artifact_digest", "own_model_id")]
    assert [id_ for id_ in ids if id_ not in shown] == []
    for route, way in lists:
        answer = ask(api, route, way, things, strangers["admin"])
        assert [id_ for id_ in ids if id_ in answer.text] == [], route


def test_a_cursor_of_another_project_shows_the_own_one(
    api: TestClient, things: dict[str, str], strangers: dict[str, dict[str, str]]
) -> None:
    owner = bearer(make_key("admin"))
    for _ in range(2):
        make_things()
    paged = 0
    for (method, path), call in TABLE.items():
        if method != "GET" or "{" in path or call.needs in (None, "installation") or path in COMMON:
            continue
        cursor = api.get(path, params={"limit": 1} if path != "/v1/usage" else {}, headers=owner).json()
        if cursor.get("next_cursor") is None:
            continue
        answer = api.get(path, params={"cursor": cursor["next_cursor"]}, headers=strangers["admin"])
        assert answer.status_code == 200
        assert not re.search("|".join(things.values()), answer.text), path
        paged += 1
    assert paged >= 6


def test_an_idempotency_key_is_its_projects_own(
    api: TestClient, things: dict[str, str], strangers: dict[str, dict[str, str]], other: str
) -> None:
    owner = bearer(make_key("admin"))
    offer(RUNTIME)
    once = {"Idempotency-Key": "once"}
    made = api.post("/v1/jobs", json=optimize(things["model_id"]), headers={**owner, **once})
    assert made.status_code == 202
    replayed = api.post("/v1/jobs", json=optimize(things["model_id"]), headers={**strangers["write"], **once})
    assert_problem(replayed, 404, "not_found")
    body = optimize(make_model(other))
    fresh = api.post("/v1/jobs", json=body, headers={**strangers["write"], **once})
    assert fresh.status_code == 202
    assert fresh.json()["id"] != made.json()["id"]
    assert "idempotency-replayed" not in fresh.headers


def test_only_the_installations_admins_look_into_other_projects(
    api: TestClient, strangers: dict[str, dict[str, str]], other: str
) -> None:
    for path in ("/v1/usage", "/v1/audit"):
        key = bearer(make_key("admin"))
        assert api.get(path, params={"project": other}, headers=key).status_code == 200
        assert_problem(api.get(path, params={"project": "prj_none"}, headers=key), 404, "not_found")
        for project in (DEFAULT_PROJECT, "prj_none"):
            answer = api.get(path, params={"project": project}, headers=strangers["admin"])
            assert_problem(answer, 403, "forbidden")
        assert_problem(
            api.get(path, params={"project": other}, headers=bearer(make_key("write"))), 403, "forbidden"
        )
