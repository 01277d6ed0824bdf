"""An HTTP server that answers as a test tells it: for what a healthy service never does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler"], None]


@dataclass
class Script:
    """The answers in order (the last one again and again), and the requests that came."""

    answers: list[Answer]
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Reads the request whole, writes it down, and lets the script answer."""

    protocol_version = "HTTP/1.1"
    script: Script

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.script.requests.append(
            {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": body}
        )
        answers = self.script.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    do_GET = do_PUT = do_POST = do_DELETE = handle_request  # noqa: N815 - the base class names them so

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


def say(status: int, body: bytes = b"{}", *, length: int | None = None, **headers: str) -> Answer:
    """An answer; with a `length` beyond the body the connection breaks in the middle of it."""

    def answer(handler: Handler) -> None:
        handler.send_response(status)
        headers.setdefault("Content-Type", "application/json")
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = length is not None

    return answer


def hang_up(handler: Handler) -> None:
    """No answer at all."""
    handler.close_connection = True


class Server(ThreadingHTTPServer):
    """Clients that go away are expected."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet."""


@contextmanager
def scripted(*answers: Answer) -> Iterator[Script]:
    """The server, for as long as the test needs it."""
    script = Script(list(answers))
    server = Server(("127.0.0.1", 0), type("Scripted", (Handler,), {"script": script}))
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
