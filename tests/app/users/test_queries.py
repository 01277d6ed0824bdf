"""Every row belongs to a project: no query of a request forgets to ask for its own."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from app.audit.actor import REQUEST_STATE
from app.config import Settings
from app.db import get_engine
from app.main import create_app
from app.tables import metadata
from tests.app.api.support import bearer, make_key
from tests.app.users.routes import TABLE, make_things

OWNED = {name for name, table in metadata.tables.items() if "project_id" in table.columns}
MAY_OMIT = (
    r"FROM api_keys JOIN projects ON projects\.id = api_keys\.project_id WHERE api_keys\.id = \?",  # authentication: the key says which project it is
    r"max\(events\.seq\)",  # how far the events of something are that was found in its project before
    r"WHERE job_steps\.job_id = \? AND job_steps\.status = \?",  # the steps of a job that was, too
    r"WHERE \w+\.id = \?$",  # the session writes or reads anew a row that it holds; the first test asks who may hold it
    r"FROM tree_files WHERE tree_files\.tree IN",  # files of trees that no row names: projects share them
    r" UNION ",  # whether anything still uses a blob: projects share blobs
)


@pytest.fixture
def api(burnish_sqlite: Settings) -> Iterator[TestClient]:
    """A client whose key is the default project's, and may do all."""
    with TestClient(create_app(), headers=bearer(make_key("admin"))) as client:
        yield client


@contextmanager
def statements() -> Iterator[list[str]]:
    """What requests execute meanwhile; the sender of webhooks, which is none, serves every project."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if REQUEST_STATE.get() is not None:
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


def test_every_query_names_its_project(api: TestClient) -> None:
    for (method, path), call in TABLE.items():
        # a stream is fed by the notifier; the others are the whole installation's
        if path.endswith("/events") or path == "/metrics" or call.needs is None:
            continue
        things = make_things()
        if call.prepare is not None:
            call.prepare(things)
        for way in call.ways:
            arguments = way(things)
            at = path.format(**{**things, **arguments.pop("path", {})})
            with statements() as seen:
                api.request(method, at, **arguments)
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
