"""What the figures of the API share: real servers on loopback, and a client that costs little beside them."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from app.processes import Process, Program
from tests.services import free_port, running_postgres, running_redis

START_SECONDS = 60.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Grounds:
    """Where the servers of a benchmark live: a directory, a PostgreSQL server and a broker."""

    folder: Path
    postgres_url: str
    redis_url: str

    def database(self, name: str) -> str:
        """A new, empty database; its URL."""
        engine = create_engine(self.postgres_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return make_url(self.postgres_url).set(database=name).render_as_string(hide_password=False)

    def environment(self, database_url: str) -> dict[str, str]:
        """The settings of a process on a database of this place."""
        return {
            **os.environ,
            "BURNISH_DATA_DIR": str(self.folder / "data"),
            "BURNISH_DATABASE_URL": database_url,
            "BURNISH_REDIS_URL": self.redis_url,
        }


@contextmanager
def grounds() -> Iterator[Grounds]:
    """Servers of its own; everything is gone in the end."""
    folder = Path(tempfile.mkdtemp(prefix="bbn"))  # short: PostgreSQL's socket lies in it
    try:
        with ExitStack() as stack:
            yield Grounds(
                folder, stack.enter_context(running_postgres(folder)), stack.enter_context(running_redis())
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Served:
    """A server process."""

    port: int
    pid: int


@contextmanager
def serving(name: str, module: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Served]:
    """`python -m MODULE serve --port PORT`, or a module that takes the same, until the block ends."""
    port = free_port()
    log = folder / f"{name}.log"
    process = Process(
        Program(
            name,
            (sys.executable, "-m", module, "serve", "--port", str(port)),
            environment,
            log,
        )
    )
    process.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while not asyncio.run(_answers(port)):
            if process.status is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} does not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.1)
        yield Served(port, _listener(port))
    finally:
        process.ask_to_stop()
        process.wait(time.monotonic() + STOP_SECONDS)
        process.kill()


async def _answers(port: int) -> bool:
    try:
        return (await Connection.fetch(port, request("/healthz")))[0] == 200
    except OSError:
        return False


def _listener(port: int) -> int:
    """The process that listens on a port: the server itself, not what starts it."""
    import psutil

    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return int(connection.pid)
    raise RuntimeError(f"nobody listens on {port}")


def burnish(*arguments: str, environment: Mapping[str, str]) -> str:
    """What a `burnish` command prints."""
    command = [sys.executable, "-m", "app.cli", *arguments]
    done = subprocess.run(command, env=dict(environment), stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def request(path: str, key: str | None = None) -> bytes:
    """The bytes of a GET request."""
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}\r\n".encode()


class Connection:
    """A kept-alive connection that reads answers with a Content-Length, and little else."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect to a port of this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @classmethod
    async def fetch(cls, port: int, wire: bytes) -> tuple[int, bytes]:
        """One request on a connection of its own: status and body."""
        connection = await cls.open(port)
        try:
            return await connection.ask(wire)
        finally:
            connection.close()

    async def ask(self, wire: bytes) -> tuple[int, bytes]:
        """Send a request; status and body of its answer."""
        self._writer.write(wire)
        head = await self._reader.readuntil(b"\r\n\r\n")
        at = head.lower().index(b"content-length:") + len(b"content-length:")
        body = await self._reader.readexactly(int(head[at : head.index(b"\r", at)]))
        return int(head[9:12]), body

    def close(self) -> None:
        """End it."""
        self._writer.close()


async def rate(port: int, wire: bytes, requests: int, connections: int) -> float:
    """Answers a second, from so many connections at once.

    Raises:
        RuntimeError: an answer is not 200.
    """
    opened = [await Connection.open(port) for _ in range(connections)]
    left = requests

    async def work(connection: Connection) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            status, body = await connection.ask(wire)
            if status != 200:
                raise RuntimeError(f"answered {status}: {body[:500]!r}")

    started = time.perf_counter()
    await asyncio.gather(*(work(connection) for connection in opened))
    seconds = time.perf_counter() - started
    for connection in opened:
        connection.close()
    return requests / seconds
