"""The OpenAPI document: FastAPI's, with every error that a route can answer, each described as a problem."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.http.problems import MEDIA_TYPE, Problem

PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {"default": {"description": "A problem (RFC 9457)."}}
ERRORS = {
    400: "The request cannot be read.",
    401: "No valid key.",
    403: "The key may not do this.",
    404: "There is no such thing.",
    408: "The body did not come in time.",
    409: "The state does not allow this.",
    413: "The body is too large.",
    415: "The body's media type or the file's format is none that this takes.",
    422: "The request has invalid fields, or its content does not fit.",
    429: "Too many requests, or a quota is used up; `Retry-After` says when to come again.",
    500: "Burnish made a mistake.",
    503: "A part of the service does not answer, or it is stopping; ask again.",
    507: "There is no space left.",
}
NAMES_OTHERS = {
    "/v1/jobs",
    "/v1/keys",
    "/v1/models",
    "/v1/datasets",
}  # whose bodies name what may not be there
CONTENT = {"416": "The file does not hold that range."}


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema()
        for path, item in document["paths"].items():
            for method, operation in item.items():
                responses = operation["responses"]
                responses.pop("default", None)
                for status in _errors(method, path, operation):
                    responses.setdefault(str(status), _problem(ERRORS[status]))
                if path.endswith("/content"):
                    responses.update({status: _problem(text) for status, text in CONTENT.items()})
        app.openapi_schema = document
    return app.openapi_schema


def _errors(method: str, path: str, operation: dict[str, Any]) -> Iterator[int]:
    yield from (400, 422, 500, 503)
    if operation.get("security"):
        yield from (401, 403, 429)
    asked = {parameter["name"] for parameter in operation.get("parameters", ())}
    if "{" in path or "project" in asked or (method == "post" and path in NAMES_OTHERS):
        yield 404
    if method in ("post", "patch", "put"):
        yield from (408, 413, 415, 507)
    if method != "get":
        yield 409


def _problem(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
