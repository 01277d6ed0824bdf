"""A TCP proxy that fails as networks do: it resets, delays, or goes silent and delivers later, as retransmission does."""

import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

RESET = struct.pack("ii", 1, 0)  # SO_LINGER for no time: closing sends RST
PIECE = 64 * 1024
TICK_SECONDS = 0.05


class Line(StrEnum):
    """The state of the line."""

    UP = "up"
    RESET = "reset"  # connections are reset, new ones too
    SILENT = "silent"  # both ends stay connected, and hear nothing of each other


class Proxy:
    """Passes connections of 127.0.0.1:`port` on to an address, or to a socket's path."""

    def __init__(self, upstream: tuple[str, int] | Path):
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.settimeout(TICK_SECONDS)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.port = int(self._listener.getsockname()[1])
        self.line = Line.UP
        self.delay_seconds = 0.0  # of each piece, in each direction
        self._forgotten = 0
        self.over = threading.Event()
        self._threads[0].start()

    def forget(self) -> None:
        """Lose what is connected now, as a NAT gateway does that starts anew: silence for ever. New connections are passed."""
        self._forgotten = len(self._threads)

    def close(self) -> None:
        """End everything."""
        self.over.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self.over.is_set():
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                number = len(self._threads)
                thread = threading.Thread(target=self._serve, args=(client, number), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket, number: int) -> None:
        with client, suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            while self.line is Line.SILENT and not self.over.is_set():
                time.sleep(TICK_SECONDS)  # connected, as far as the client knows: the kernel accepted it
            if self.line is Line.RESET:
                return
            with self._connect() as server:
                self._pass(client, server, number)

    def _connect(self) -> socket.socket:
        if isinstance(self._upstream, tuple):
            return socket.create_connection(self._upstream)
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._upstream))
        return server

    def _pass(self, client: socket.socket, server: socket.socket, number: int) -> None:
        other = {client: server, server: client}
        with selectors.DefaultSelector() as selector:
            for one in other:
                selector.register(one, selectors.EVENT_READ)
            while not self.over.is_set() and self.line is not Line.RESET:
                if self.line is Line.SILENT or number < self._forgotten:
                    time.sleep(TICK_SECONDS)
                    continue
                for key, _ in selector.select(TICK_SECONDS):
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    data = source.recv(PIECE)
                    if not data:
                        return
                    time.sleep(self.delay_seconds)
                    other[source].sendall(data)


@contextmanager
def proxied(upstream: tuple[str, int] | Path) -> Iterator[Proxy]:
    """A proxy until the block ends."""
    proxy = Proxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
