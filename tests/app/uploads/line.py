"""An API process that can be killed, and a TCP line to it that counts what goes up and can be cut."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.services import free_port


def until(true: Callable[[], object], seconds: float = 60) -> None:
    """Wait for what must become true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class ApiProcess:
    """`serve` in a process of its own, always on the same port; it reads this process's environment."""

    def __init__(self, log: Path):
        self.port = free_port()
        self._log = log
        self.start()

    def start(self) -> None:
        code = f"from app.serve import serve; serve('127.0.0.1', {self.port})"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log)

    def ready(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def api_process(folder: Path) -> Iterator[ApiProcess]:
    api = ApiProcess(folder / "api.log")
    try:
        until(api.ready)
        yield api
    finally:
        api.kill()


class Line:
    """Forwards connections to a port; drops the one that carries up the byte at which it is to be cut."""

    def __init__(self, to_port: int):
        self._to = to_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.sent_bytes = 0
        self.cuts: list[int] = []  # at so many bytes, ascending
        self.pause_seconds = 0.0  # after each piece going up
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with (
            client,
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._to)) as server,
        ):
            down = threading.Thread(target=self._down, args=(server, client), daemon=True)
            down.start()
            try:
                while data := client.recv(65536):
                    server.sendall(data)
                    self.sent_bytes += len(data)
                    if self.cuts and self.sent_bytes >= self.cuts[0]:
                        self.cuts.pop(0)
                        return
                    time.sleep(self.pause_seconds)
            finally:
                for end in (client, server):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                down.join()

    @staticmethod
    def _down(server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)


@contextmanager
def line_to(port: int) -> Iterator[Line]:
    line = Line(port)
    try:
        yield line
    finally:
        line.close()
