"""Bytes on a socket, as no client library would send them."""

import contextlib
import re
import socket
import time
from collections.abc import Iterator

from tests.app.api.support import Server

PATIENCE_SECONDS = 30.0  # only hangs take as long


@contextlib.contextmanager
def connected(server: Server, receive_buffer: int = 0) -> Iterator[socket.socket]:
    with socket.socket() as opened:
        if receive_buffer:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        opened.settimeout(PATIENCE_SECONDS)
        opened.connect((server.host, server.port))
        yield opened


def ask(server: Server, data: bytes) -> bytes:
    """Everything that comes until the server closes."""
    with connected(server) as opened:
        with contextlib.suppress(ConnectionError):
            opened.sendall(data)
        return rest(opened)


def rest(opened: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError):
        while piece := opened.recv(65536):
            got += piece
    return got


def head(method: str, path: str, *lines: str, key: str | None = None, host: str = "Host: x") -> bytes:
    asked = [f"{method} {path} HTTP/1.1", *([host] if host else []), *lines]
    if key is not None:
        asked.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*asked, "", ""]).encode("latin-1")


def statuses(answer: bytes) -> list[int]:
    """The status of every answer on a connection."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def lives(server: Server) -> bool:
    """Whether somebody else is served at once."""
    started = time.monotonic()
    ok = statuses(ask(server, head("GET", "/healthz", "Connection: close"))) == [200]
    return ok and time.monotonic() - started < PATIENCE_SECONDS
