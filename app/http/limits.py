"""The limit on request bodies, with or without a Content-Length. Uploads have one of their own."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNLIMITED_RECEIVE = "burnish.receive"


class BodyLimit:
    """Pure ASGI middleware: reading past the limit raises 413. `UNLIMITED_RECEIVE` in the scope is the way around it."""

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        left = self.max_bytes
        length = Headers(scope=scope).get("content-length", "")
        declared = int(length) if length.isdecimal() else 0

        async def limited() -> Message:
            nonlocal left
            if declared > self.max_bytes:
                raise self._too_large()
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    raise self._too_large()
            return message

        scope[UNLIMITED_RECEIVE] = receive
        await self.app(scope, limited, send)

    def _too_large(self) -> HTTPException:
        # an HTTPException, because FastAPI wraps every other error that reading a body raises in a 400
        return HTTPException(413, f"the body is larger than {self.max_bytes} bytes")
