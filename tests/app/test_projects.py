"""Every row belongs to a project: no route shows, changes or counts another project's, and no query forgets to ask for its own."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from app.config import Settings
from app.db import get_engine
from app.main import create_app
from app.tables import metadata
from tests.app.api.support import assert_problem, bearer, make_key, make_project
from tests.app.jobs.factories import RUNTIME, make_artifact, make_dataset, make_model, offer, optimize

OPERATIONS = sorted(
    (
        (method.upper(), path)
        for path, methods in create_app().openapi()["paths"].items()
        for method in methods
        if path.startswith("/v1/")
    ),
    key=lambda one: ("GET", "POST", "DELETE").index(one[0]),
)
WITH_ID = [(method, path) for method, path in OPERATIONS if "{" in path]
LISTS = [path for method, path in OPERATIONS if method == "GET" and "{" not in path]
OWNED = {name for name, table in metadata.tables.items() if "project_id" in table.columns}
MAY_OMIT = (
    r"FROM api_keys WHERE api_keys\.id = \?",  # authentication: the key says which project it is
    r"max\(events\.seq\)",  # how far the events of something are that was found in its project before
    r"WHERE job_steps\.job_id = \? AND job_steps\.status = \?",  # the steps of a job that was, too
    r"WHERE \w+\.id = \?$",  # the session writes or reads anew a row that it holds; the first test asks who may hold it
    r" UNION ",  # whether anything still uses a blob: projects share blobs
)


@pytest.fixture
def api(burnish_sqlite: Settings) -> Iterator[TestClient]:
    """A client whose key belongs to no project: each request brings its own."""
    with TestClient(create_app()) as client:
        yield client


@pytest.fixture
def owner(api: TestClient) -> dict[str, str]:
    return bearer(make_key("admin"))


@pytest.fixture
def stranger(api: TestClient) -> dict[str, str]:
    """An admin key of another project."""
    return bearer(make_key("admin", project=make_project("other")))


@pytest.fixture
def things(api: TestClient, owner: dict[str, str]) -> dict[str, str]:
    """One of each kind, in the default project: name in a path -> id."""
    offer(RUNTIME)
    model = make_model()
    job = api.post("/v1/jobs", json=optimize(model), headers=owner).json()["id"]
    return {
        "model_id": model,
        "dataset_id": make_dataset(),
        "job_id": job,
        "artifact_id": make_artifact(job),
        "key_id": api.get("/v1/keys", headers=owner).json()["items"][0]["id"],
    }


@contextmanager
def statements() -> Iterator[list[str]]:
    """What is executed meanwhile."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    event.listen(get_engine(), "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(get_engine(), "before_cursor_execute", note)


def without_project(statement: str) -> bool:
    """Whether a statement reads or changes rows of projects, and does not say whose."""
    text = " ".join(statement.split())
    tables = set(re.findall(r"\b(?:FROM|JOIN|UPDATE) (\w+)", text))
    if not tables & OWNED or "project_id" in text.partition(" WHERE ")[2]:
        return False
    return not any(re.search(pattern, text) for pattern in MAY_OMIT)


def call(api: TestClient, method: str, path: str, key: dict[str, str], subject: str) -> Any:
    body = {"json": optimize(subject)} if path.endswith("/validate") else {}
    return api.request(method, path, headers=key, **body)


def test_every_kind_of_id_is_covered(things: dict[str, str]) -> None:
    named = {name for _, path in WITH_ID for name in re.findall(r"{(\w+)}", path)}
    assert named == set(things)


def test_another_projects_things_are_not_there(
    api: TestClient, things: dict[str, str], stranger: dict[str, str]
) -> None:
    for method, path in WITH_ID:
        answer = call(api, method, path.format(**things), stranger, things["model_id"])
        assert_problem(answer, 404, "not_found")


def test_lists_hold_the_own_project_alone(
    api: TestClient, things: dict[str, str], owner: dict[str, str], stranger: dict[str, str]
) -> None:
    shown = {path: api.get(path, headers=owner).text for path in LISTS}
    assert all(any(id_ in text for text in shown.values()) for id_ in things.values())
    for path in LISTS:
        text = api.get(path, headers=stranger).text
        assert not any(id_ in text for id_ in things.values()), path


def test_every_query_names_its_project(
    api: TestClient, things: dict[str, str], owner: dict[str, str]
) -> None:
    for method, path in OPERATIONS:
        if path.endswith("/events"):  # a stream, which the notifier feeds
            continue
        with statements() as seen:
            call(api, method, path.format(**things), owner, things["model_id"])
        assert seen, path
        assert [statement for statement in seen if without_project(statement)] == [], f"{method} {path}"


@pytest.mark.parametrize(
    ("statement", "bad"),
    [
        ("SELECT models.id, models.project_id \nFROM models ORDER BY models.id", True),
        ("SELECT jobs.id FROM jobs JOIN artifacts ON jobs.id = artifacts.job_id WHERE jobs.status = ?", True),
        ("UPDATE jobs SET status=? WHERE jobs.status = ?", True),
        ("DELETE FROM artifacts WHERE artifacts.job_id = ?", True),
        ("SELECT models.id FROM models WHERE models.project_id = ? AND models.id = ?", False),
        ("SELECT workers.id FROM workers", False),
    ],
)
def test_a_query_without_its_project_would_be_found(statement: str, bad: bool) -> None:
    assert without_project(statement) == bad
