"""Nobody without a key learns what the service thinks of a request, or makes it read a body."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from tests.app.api.support import assert_problem, bearer, make_key

OPEN = {"/healthz", "/readyz"}


def routes() -> Iterator[tuple[str, str]]:
    for path, item in create_app().openapi()["paths"].items():
        if path not in OPEN:
            for method in item:
                yield method.upper(), path


@pytest.mark.parametrize("body", [b"{bad", b"[" * 5000, b"x" * 2_000_000])
def test_without_a_key_every_route_says_only_that(api_sqlite: TestClient, body: bytes) -> None:
    headers: dict[str, Any] = {"Content-Type": "application/json", "Authorization": ""}
    for method, path in routes():
        answer = api_sqlite.request(method, f"{path}?unknown=1", content=body, headers=headers)
        assert_problem(answer, 401, "unauthorized")


def test_without_the_scope_no_body_is_judged(api_sqlite: TestClient) -> None:
    headers = {"Content-Type": "application/json", **bearer(make_key("read"))}
    for path in ("/v1/keys", "/v1/jobs", "/v1/projects", "/v1/uploads"):
        assert_problem(api_sqlite.post(path, content=b"{bad", headers=headers), 403, "forbidden")
