"""Every error as `application/problem+json` (RFC 9457)."""

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from kombu.exceptions import OperationalError as BrokerError
from pydantic import BaseModel, ConfigDict, ValidationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from app.db import is_full
from app.errors import (
    BurnishError,
    DiskFull,
    Internal,
    InvalidParams,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    Unavailable,
    UnsupportedMediaType,
)
from app.text import fault

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5

log = structlog.get_logger(__name__)

_BY_STATUS: dict[int, type[BurnishError]] = {
    400: MalformedRequest,
    404: NotFound,
    405: MethodNotAllowed,
    408: RequestTimeout,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
}


class Problem(BaseModel):
    """An error (RFC 9457). `code` tells what it is; `param` and `errors` where in the request; `hint` what to do."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str
    retryable: bool
    stage: str | None = None
    node: str | None = None
    param: str | None = None
    hint: str | None = None
    errors: list[dict[str, Any]] | None = None


def problem_response(error: BurnishError, request_id: str) -> JSONResponse:
    """The answer that an error makes."""
    body = {**error.problem(), "instance": f"urn:burnish:request:{request_id}"}
    return JSONResponse(body, error.http_status, headers=error.headers, media_type=MEDIA_TYPE)


def add_problem_handlers(app: FastAPI) -> None:
    """Let every handled error of the application answer as a problem. What nothing handles is `RequestContext`'s."""

    @app.exception_handler(BurnishError)
    async def _burnish(request: Request, error: BurnishError) -> JSONResponse:
        if error.http_status >= 500:
            log.error("request_failed", code=error.code, exc_info=error)
        return problem_response(error, request.state.request_id)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem_response(_invalid_params(error), request.state.request_id)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        return problem_response(_from_http(request, error), request.state.request_id)

    @app.exception_handler(DataError)
    async def _unstorable(request: Request, error: DataError) -> JSONResponse:
        log.warning("unstorable_value", error=str(error.orig))
        problem = InvalidParams(
            "the database cannot hold a value of this request",
            hint="a text with a NUL character, perhaps, or a number out of range",
        )
        return problem_response(problem, request.state.request_id)

    async def _outage(request: Request, error: Exception) -> JSONResponse:
        log.error("dependency_unavailable", exc_info=error)
        if isinstance(error, DBAPIError) and is_full(error):
            full = DiskFull("the database has no space left", hint="free space on the database's disk")
            return problem_response(full, request.state.request_id)
        problem = Unavailable(
            "the database or the message broker does not answer",
            hint="try again soon; `/readyz` says which part it is",
            headers={"Retry-After": str(RETRY_SECONDS)},
        )
        return problem_response(problem, request.state.request_id)

    for outage in (
        OperationalError, InterfaceError, PoolTimeout, BrokerError, RedisConnectionError, RedisTimeoutError,
    ):  # fmt: skip
        app.add_exception_handler(outage, _outage)


def internal() -> Internal:
    """The problem of an error that nobody foresaw: its traceback is in the log, not in the answer."""
    return Internal(
        "an unexpected error happened while answering",
        hint="the service's log holds the traceback under this request id",
    )


def invalid_params(errors: list[tuple[str, str]]) -> InvalidParams:
    """The problem of invalid fields, given as (path, message)."""
    listed = [{"path": path, "message": message} for path, message in errors]
    first = errors[0]
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    return InvalidParams(f"{first[0] or 'body'}: {first[1]}{more}", param=first[0] or None, errors=listed)


def invalid_fields(error: ValidationError) -> InvalidParams:
    """The problem of fields that a schema refuses."""
    return invalid_params([(field_path(item["loc"]), fault(item["msg"])) for item in error.errors()])


def _invalid_params(error: RequestValidationError) -> InvalidParams:
    found = []
    for item in error.errors():
        message = fault(item["msg"])
        if item["type"] == "json_invalid":
            message = f"not JSON: {item['ctx']['error']} at character {item['loc'][-1]}"
            found.append(("", message))
        elif item["type"].startswith("union_tag_"):
            found.append((item["ctx"]["discriminator"].strip("'"), message))
        else:
            found.append((field_path(_path(item["loc"], error.body)) or str(item["loc"][0]), message))
    return invalid_params(found)


def _path(loc: tuple[Any, ...], body: Any) -> tuple[Any, ...]:
    """Where in the request, without its `kind`, which pydantic puts in front of every path behind a union."""
    tagged = isinstance(body, dict) and len(loc) > 1 and loc[0] == "body" and loc[1] == body.get("kind")
    return loc[2:] if tagged else loc[1:]


def field_path(loc: tuple[Any, ...]) -> str:
    """A path as people write it: `recipe.passes[1].params.method`."""
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _from_http(request: Request, error: HTTPException) -> BurnishError:
    headers = dict(error.headers or {})
    cls = _BY_STATUS.get(error.status_code, Internal if error.status_code >= 500 else MalformedRequest)
    if cls is NotFound:
        return NotFound(
            f"there is nothing at {request.url.path}", hint="see `/openapi.json`", headers=headers
        )
    if cls is MethodNotAllowed:
        allowed = ", ".join(_methods_at(request))
        return MethodNotAllowed(
            f"{request.url.path} does not know {request.method}",
            hint=f"it knows: {allowed}",
            headers={"Allow": allowed},
        )
    return cls(str(error.detail), headers=headers)


def _methods_at(request: Request) -> list[str]:
    """Every method of a path; Starlette names those of the first route alone (RFC 9110, 15.5.6 wants all)."""
    found: set[str] = set()
    for context in iter_route_contexts(request.app.routes):
        if context.path_regex.match(request.url.path):
            found |= context.methods or set()
    return sorted(found)
