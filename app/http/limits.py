"""The limits on request bodies, with or without a Content-Length: size, time, coding. Uploads have limits of their own."""

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNLIMITED_RECEIVE = "burnish.receive"
BODY_SECONDS = 60.0  # from the first look at a body to its end
CLOSING = {"Connection": "close"}  # RFC 9110, 15.5.9: what still comes of the body is no next request
BODILESS = frozenset({"GET", "HEAD", "DELETE"})  # nobody reads these methods' bodies


class BodyLimit:
    """Pure ASGI middleware: reading past a limit raises. `UNLIMITED_RECEIVE` in the scope is the way around it.

    What is raised is an HTTPException, because FastAPI wraps every other error that reading a body raises in a 400.
    """

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in BODILESS:
            await self.app(scope, receive, send)
            return
        scope[UNLIMITED_RECEIVE] = receive
        await self.app(scope, _Limited(receive, Headers(scope=scope), self.max_bytes), send)


class _Limited:
    """A `receive` that counts."""

    def __init__(self, receive: Receive, headers: Headers, max_bytes: int):
        self._receive = receive
        self._headers = headers
        self._max_bytes = max_bytes
        self._seen = 0
        self._deadline: float | None = None
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        if self._deadline is None:
            self._check_head()
            self._deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            detail = f"the body did not come within {BODY_SECONDS:g} seconds"
            raise HTTPException(408, detail, headers=CLOSING) from error
        self._seen += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._seen > self._max_bytes:
            raise self._too_large()
        return message

    def _check_head(self) -> None:
        if self._headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise HTTPException(415, "a body is sent as it is, without a content coding")
        length = self._headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise self._too_large()

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body is larger than {self._max_bytes} bytes", headers=CLOSING)
