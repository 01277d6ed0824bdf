"""The outermost layer of a request: its id, its access line, its count, and the answer to errors nobody foresaw."""

import re
import time
from collections.abc import Callable
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.audit.actor import REQUEST_STATE
from app.http.problems import internal, problem_response
from app.ids import new_id
from app.observability.metrics import count_request

REQUEST_ID_HEADER = "X-Request-ID"
CLIENT_GONE = 499  # nobody reads this status; it marks the line in log and metrics

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

log = structlog.get_logger("app.access")


class RequestContext:
    """Pure ASGI middleware: bodies and streams pass through untouched."""

    def __init__(self, app: ASGIApp, route_of: Callable[[Scope], str]):
        self.app = app
        self.route_of = route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        REQUEST_STATE.set(state)
        started = time.perf_counter()
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Cache-Control", "no-store")
                headers.update(state.get("answer_headers", {}))
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except ClientDisconnect:
                status = CLIENT_GONE
            except Exception:
                log.exception("unexpected_error", path=scope["path"])
                if status is not None:
                    raise  # the answer has begun: only cutting it short tells the client
                await problem_response(internal(), request_id)(scope, receive, send_with_id)
            finally:
                self._finish(scope, state, status or CLIENT_GONE, time.perf_counter() - started)

    def _finish(self, scope: Scope, state: dict[str, Any], status: int, seconds: float) -> None:
        route = self.route_of(scope)
        count_request(route, scope["method"], status, seconds)
        principal = state.get("principal")
        log.info(
            "request",
            method=scope["method"],
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            project=principal and principal.project_id,
            key=principal and principal.key_id,
        )


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
    return given if _SANE_ID.fullmatch(given) else new_id("req")
