"""What the tests of the API share besides fixtures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from app.auth import service as auth
from app.auth.service import Scope
from app.auth.tables import DEFAULT_PROJECT
from app.db import transaction


@dataclass(frozen=True)
class Server:
    """A served application: where it listens, and a client with an admin key."""

    host: str
    port: int
    key: str
    client: httpx.Client
    stop: Callable[[], None]


def make_key(*scopes: Scope, project: str = DEFAULT_PROJECT) -> str:
    with transaction() as session:
        return auth.create_key(session, project, "test", list(scopes))[1]


def make_project(name: str) -> str:
    with transaction() as session:
        return auth.create_project(session, name).id


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "code", "instance", "retryable"} <= body.keys()
    assert (body["status"], body["code"]) == (status, code)
    assert body["instance"] == f"urn:burnish:request:{response.headers['x-request-id']}"
    return body
