"""A connection's HTTP/1.1: uvicorn's protocol on llhttp, with the bounds that it lacks.

llhttp is strict: it refuses bare line feeds, folded header lines, bad chunk sizes, doubled or contradicting lengths. What it
leaves to its user is here: how long and how large a request's head may be, how many requests wait behind each other, how long
a client may take no byte of its answer, and one `Host`. A body's time is `limits.BodyLimit`'s, which knows the route.
"""

import asyncio
from collections import Counter
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from app.errors import BurnishError, HeadTooLarge, MalformedRequest, RequestTimeout, Unavailable
from app.http.problems import problem_response
from app.ids import new_id

HEAD_SECONDS = (
    20.0  # from a connection's beginning, or a request's first byte, to the end of its header fields
)
HEAD_BYTES = 64 * 1024
HEADER_FIELDS = 100
PIPELINED = 16  # requests that wait for the answers to those before
WRITE_SECONDS = 60.0  # in which a client must take something of what waits for it
ALWAYS_ANSWERED = "/healthz"  # a supervisor must not kill a process for being busy


class GuardedProtocol(HttpToolsProtocol):
    """Ends what a client drags out or swells: with a problem where no answer has begun, else by closing."""

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _refusal: BurnishError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first head's time begins."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._end_head()
        self._end_write()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and look at what the head has grown to."""
        in_head = self._head_timer is not None
        super().data_received(data)
        if self.transport.is_closing():
            return
        if in_head and self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(_head_too_large())
        elif self._head_timer is None and self._is_idle():
            self._await_head()  # bytes that are no request yet, or the rest of a body that nobody reads

    def on_message_begin(self) -> None:
        """A request's first byte."""
        super().on_message_begin()
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field."""
        super().on_header(name, value)
        if len(self.headers) > HEADER_FIELDS or _size(self.url, self.headers) > HEAD_BYTES:
            self._refusal = _head_too_large()
            raise ValueError

    def on_headers_complete(self) -> None:
        """The head is whole: what llhttp lets pass is looked at, then uvicorn starts the application."""
        self._end_head()
        self._refusal = self._fault()
        if self._refusal is not None:
            raise ValueError
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls where the parser, or one of the methods above, refuses the bytes."""
        self._refuse(self._refusal or MalformedRequest("this is not HTTP/1.1 (RFC 9112)"))

    def pause_writing(self) -> None:
        """The client takes less than is sent."""
        super().pause_writing()
        self._end_write()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has taken something."""
        self._end_write()
        super().resume_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if app is service_unavailable:
            app = self.app if cycle.scope["path"] == ALWAYS_ANSWERED else overloaded
        super()._start_asgi_task(cycle, app)

    def _fault(self) -> BurnishError | None:
        count = Counter(name for name, _ in self.headers)
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            return MalformedRequest("this speaks HTTP/1.1 and HTTP/1.0")
        if count[b"host"] > 1 or (count[b"host"] == 0 and version == "1.1"):
            return MalformedRequest("a request has one Host", param="Host")
        if count[b"content-length"] > 1 or (count[b"content-length"] and count[b"transfer-encoding"]):
            return MalformedRequest("a body has one length", param="Content-Length")
        if count[b"transfer-encoding"] and (version == "1.0" or not self._is_chunked()):
            return MalformedRequest("the only transfer coding is `chunked`", param="Transfer-Encoding")
        if len(self.pipeline) >= PIPELINED:
            return MalformedRequest(f"more than {PIPELINED} requests wait for the answers to those before")
        return None

    def _is_chunked(self) -> bool:
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        return codings == [b"chunked"]

    def _is_idle(self) -> bool:
        return (self.cycle is None or self.cycle.response_complete) and not self.pipeline

    def _await_head(self) -> None:
        self._end_head()
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        self._refuse(RequestTimeout("the request did not come in time"))

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_write(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _refuse(self, error: BurnishError) -> None:
        """Answer the request whose bytes are wrong, unless an earlier one is still to be answered, and close."""
        self._end_head()
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        if answering and (cycle.response_started or not cycle.more_body or self.pipeline):
            self.transport.abort()
            return
        if answering:  # its body is what is wrong
            cycle.disconnected = True
            cycle.message_event.set()
        status, headers, body = _answer(error)
        lines = [b"%s: %s\r\n" % pair for pair in (*headers, (b"connection", b"close"))]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self.transport.close()


async def overloaded(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application that answers while the process holds as many connections as it may."""
    error = Unavailable(
        "this process serves as many connections as it may",
        hint="come again in a moment",
        headers={"Retry-After": "1"},
    )
    status, headers, body = _answer(error)
    closing = [*headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": closing})
    await send({"type": "http.response.body", "body": body})


def _answer(error: BurnishError) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    response = problem_response(error, new_id("req"))
    return response.status_code, response.raw_headers, bytes(response.body)


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"address and header fields together are at most {HEAD_BYTES} bytes, in {HEADER_FIELDS} fields"
    )


def _size(url: bytes, headers: list[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) for name, value in headers)
