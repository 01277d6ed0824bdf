"""The OpenAPI document against the contract."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from openapi_spec_validator import validate

from app.auth.principal import require
from app.main import create_app
from tests.app.api.support import bearer, make_key

CONTRACT = """
POST /v1/uploads
GET /v1/uploads
GET /v1/uploads/{id}
PATCH /v1/uploads/{id}
DELETE /v1/uploads/{id}
POST /v1/models
GET /v1/models
GET /v1/models/{id}
DELETE /v1/models/{id}
POST /v1/datasets
GET /v1/datasets
GET /v1/datasets/{id}
DELETE /v1/datasets/{id}
POST /v1/jobs
GET /v1/jobs
GET /v1/jobs/{id}
GET /v1/jobs/{id}/events
GET /v1/jobs/{id}/logs
POST /v1/jobs/{id}/cancel
DELETE /v1/jobs/{id}
POST /v1/jobs/{id}/retry
GET /v1/jobs/{id}/artifacts
GET /v1/artifacts/{id}
GET /v1/artifacts/{id}/content
GET /v1/artifacts/{id}/validity
POST /v1/artifacts/{id}/rebuild
GET /v1/passes
GET /v1/runtimes
GET /v1/metrics
GET /v1/workers
GET /v1/signing-keys
POST /v1/keys
GET /v1/keys
DELETE /v1/keys/{id}
POST /v1/projects
GET /v1/projects
GET /v1/usage
GET /healthz
GET /readyz
GET /metrics
"""
OPEN = {"/healthz", "/readyz"}
CREATING = {
    "/v1/uploads",
    "/v1/models",
    "/v1/datasets",
    "/v1/jobs",
    "/v1/jobs/{id}/retry",
    "/v1/artifacts/{id}/rebuild",
    "/v1/projects",
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return dict(create_app().openapi())


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            parts = ["{id}" if part.startswith("{") else part for part in path.split("/")]
            found[f"{method.upper()} {'/'.join(parts)}"] = operation
    return found


def test_every_call_of_the_contract_is_there(document: dict[str, Any]) -> None:
    missing = set(CONTRACT.strip().splitlines()) - operations(document).keys()
    assert not missing


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(document)


def test_every_error_is_described_as_a_problem(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        answers = {int(status): answer for status, answer in operation["responses"].items()}
        assert {400, 422, 500, 503} <= answers.keys(), name
        for status, answer in answers.items():
            if status >= 400 and (name, status) != ("GET /readyz", 503):
                assert list(answer["content"]) == ["application/problem+json"], (name, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_everything_but_the_health_checks_is_secured(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        assert bool(operation.get("security")) == (name.split()[1] not in OPEN), name


def test_every_post_that_creates_takes_an_idempotency_key(document: dict[str, Any]) -> None:
    for path in CREATING:
        names = [parameter["name"] for parameter in operations(document)[f"POST {path}"]["parameters"]]
        assert "Idempotency-Key" in names, path


def test_request_schemas_refuse_unknown_fields(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        for content in operation.get("requestBody", {}).get("content", {}).values():
            schemas = [content["schema"]]
            while schemas:
                schema = schemas.pop()
                if "$ref" in schema:
                    schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
                schemas += schema.get("oneOf", []) + schema.get("anyOf", [])
                if schema.get("type") == "object":
                    assert schema.get("additionalProperties") is False, (name, schema.get("title"))


def test_everything_is_documented(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        assert operation.get("description"), name


def test_it_is_served_to_whoever_has_a_key(api_sqlite: TestClient) -> None:
    response = api_sqlite.get("/openapi.json", headers=bearer(make_key("read")))
    assert response.status_code == 200
    assert response.json()["openapi"].startswith("3.1")
    assert require("read") is require("read")  # one dependency, so that it runs once a request
