"""A child process: started, listened to, killed with everything that it started."""

import codecs
import contextlib
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from app.config import get_settings
from app.redaction import showable
from workers.sandbox.cgroups import Group
from workers.sandbox.disk import Disk
from workers.sandbox.enter import Confinement
from workers.sandbox.limits import clean_environment, memory_limit_bytes
from workers.sandbox.paths import VIEW, WORK

MARK = "BURNISH_CHILD"  # in the environment of everything that a child starts, whatever group it moved to
LINE_BYTES = 64 * 1024 * 1024
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)  # but tab and line ends: they would steer a terminal
READ_BYTES = 256 * 1024
TERM_SECONDS = 3.0
TAIL_CHARS = 4000
LOG_LINE_CHARS = 4000  # a longer line is kept in pieces
_DISK_SHARE = 0.8


class ProtocolError(Exception):
    """The child said something that the protocol does not know."""


@dataclass(frozen=True)
class ChildLimits:
    """What a child may take: bytes of its largest file, of memory and of disk; processes and threads; characters of log.

    `required`: it ends where neither its network nor its files can be held. `without`: walls that are left out. `node`: its
    number among several that train together.
    """

    file_bytes: int
    memory_bytes: int
    processes: int
    scratch_bytes: int
    log_chars: int
    required: bool = False
    without: frozenset[str] = frozenset()
    node: int | None = None


def child_limits(
    scratch: Path, without: frozenset[str] = frozenset(), node: int | None = None
) -> ChildLimits:
    """As the settings have it, for a child that works in this folder."""
    settings = get_settings()
    return ChildLimits(
        file_bytes=settings.child_file_bytes,
        memory_bytes=memory_limit_bytes(settings.child_memory_bytes),
        processes=settings.child_processes,
        scratch_bytes=settings.child_scratch_bytes or int(shutil.disk_usage(scratch).free * _DISK_SHARE),
        log_chars=settings.max_log_bytes,
        required=settings.require_sandbox,
        without=without,
        node=node,
    )


class ChildProcess:
    """One child, in a session of its own. One thread reads it; `stop` and `kill` may be called from any.

    `command` is called with the arguments of a `Confinement` behind it; `environment` is put over what it gets of ours.
    """

    def __init__(
        self,
        command: Sequence[str],
        assignment: Path,
        scratch: Path,
        mark: str,
        limits: ChildLimits,
        environment: Mapping[str, str] | None = None,
    ):
        self._mark = mark
        self.limits = limits
        self.disk = Disk(scratch / WORK)
        home, temporary = scratch / WORK / "home", scratch / WORK / "tmp"
        for folder in (home, temporary, scratch / VIEW):
            folder.mkdir(parents=True, exist_ok=True)
        self.group = Group(mark, limits.memory_bytes, limits.processes)
        asked = Confinement(
            parent=os.getpid(),
            file_bytes=limits.file_bytes,
            memory_bytes=limits.memory_bytes,
            processes=limits.processes,
            cgroups=tuple(self.group.folders),
            memory_by=self.group.memory,
            processes_by=self.group.processes,
            required=limits.required,
            without=limits.without,
            assignment=assignment,
            node=limits.node,
        )
        self._process = subprocess.Popen(
            [*command, *asked.arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=home,
            env=clean_environment(home, temporary, **(environment or {}), **{MARK: mark}),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._answers = self._process.stdin
        self._said = self._process.stdout
        os.set_blocking(self._said.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._said, selectors.EVENT_READ)
        self._rest = bytearray()
        self.said_bytes = 0
        self._closed = False
        self.took_all_its_memory = False  # known once it is closed
        self._last_heard: float | None = time.monotonic()
        self._reaping = threading.RLock()
        self.log = ChildLog(self._process.stderr.fileno(), limits.log_chars)

    @property
    def pid(self) -> int:
        """The process id, which is its group's and its session's too."""
        return self._process.pid

    @property
    def silent_seconds(self) -> float:
        """How long the child said nothing, while it was not waiting for us."""
        heard = self._last_heard
        return 0.0 if heard is None else time.monotonic() - heard

    def messages(self, timeout: float) -> Iterator[dict[str, Any]]:
        """What the child says within `timeout` seconds. An empty iterator is no end: see `ended`.

        Raises:
            ProtocolError: that was no message, or too long a one.
        """
        gone = self.exited()  # asked before the last read: what it said before its end is in the pipe
        self._selector.select(0 if gone else timeout)
        data = self._read()
        if gone and not data:
            self._closed = True
        elif data == b"":
            time.sleep(0.05)  # it closed the pipe and lives: its end will come
        self._rest += data or b""
        self.said_bytes += len(data or b"")
        if len(self._rest) > LINE_BYTES:
            raise ProtocolError(f"a line of more than {LINE_BYTES} bytes")
        if b"\n" in (data or b""):
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                yield self._parse(line)

    def answer(self, **fields: Any) -> None:
        """Answer what the child asked; nothing happens where it is gone."""
        self._last_heard = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            self._answers.write(json.dumps(fields, allow_nan=False).encode() + b"\n")
            self._answers.flush()

    def wait_for_us(self) -> None:
        """From here to the answer, the child's silence is ours."""
        self._last_heard = None

    @property
    def ended(self) -> bool:
        """Whether the child is gone and everything that it said was read."""
        return self._closed

    def exited(self) -> bool:
        """Whether the process is over. It is not reaped here: its id stays taken, so nobody else's is killed for it."""
        with self._reaping:
            if self._process.returncode is not None:
                return True
            over = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            return over is not None

    def stop(self) -> None:
        """SIGTERM to the group; SIGKILL to everything after three seconds."""
        with self._reaping, contextlib.suppress(ProcessLookupError):
            if self._process.returncode is None:
                os.killpg(self.pid, signal.SIGTERM)
        self._wait(TERM_SECONDS)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the group and to everything that left it, until nothing is left."""
        while self._kill_some():
            time.sleep(0.02)

    def close(self, grace_seconds: float = 0.0) -> int:
        """End everything, reap the child, and let go of its pipes: its exit status, -N where signal N killed it.

        A child that said its last line gets `grace_seconds` to leave by itself.
        """
        self._wait(grace_seconds)
        self.kill()
        with self._reaping:
            status = self._process.wait()
        self.log.close()
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.took_all_its_memory |= self.group.ran_out_of_memory() and self.group.reached_its_limit()
        self.group.remove()
        return status

    def _kill_some(self) -> bool:
        """Kill what is alive now; False where nothing was."""
        with self._reaping:
            if self._process.returncode is not None:
                return False
            left = [process for process in self.members(thorough=True) if _alive(process)]
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            return bool(left)

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.exited():
            time.sleep(0.02)

    def members(self, *, thorough: bool = False) -> list[psutil.Process]:
        """The child's processes: its session, its group, its descendants, its control group; `thorough`: and whoever
        carries its mark."""
        found: dict[int, psutil.Process] = {}
        with contextlib.suppress(psutil.Error):
            found = {process.pid: process for process in psutil.Process(self.pid).children(recursive=True)}
        grouped = self.group.pids()
        for process in psutil.process_iter():
            if process.pid in grouped or self._owns(process.pid) or (thorough and self._marked(process)):
                found[process.pid] = process
        return list(found.values())

    def _owns(self, pid: int) -> bool:
        try:
            return pid == self.pid or os.getsid(pid) == self.pid or os.getpgid(pid) == self.pid
        except (ProcessLookupError, PermissionError):
            return False

    def _marked(self, process: psutil.Process) -> bool:
        try:
            return bool(process.environ().get(MARK) == self._mark)
        except (psutil.Error, OSError):
            return False

    def _read(self) -> bytes | None:
        try:
            return os.read(self._said.fileno(), READ_BYTES)
        except BlockingIOError:
            return None

    def _parse(self, line: bytearray) -> dict[str, Any]:
        self._last_heard = time.monotonic()
        try:
            message = _clean(json.loads(line, parse_constant=_refuse))
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"a line that is no JSON: {bytes(line[:200])!r}") from error
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise ProtocolError(f"a line that is no message: {bytes(line[:200])!r}")
        return message


class ChildLog:
    """What a child prints, read by a thread of its own so that it never blocks; the last `limit` characters are kept."""

    def __init__(self, source: int, limit: int):
        self._source = source
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting = ""
        self._tail = ""
        self._thread = threading.Thread(target=self._pump, name="child-log", daemon=True)
        self._thread.start()

    def take(self) -> str:
        """What was printed since the last call."""
        with self._lock:
            text, self._waiting = self._waiting, ""
        return text

    def put_back(self, text: str) -> None:
        """Take it later: it could not be stored now."""
        with self._lock:
            self._waiting = (text + self._waiting)[-self._limit :]

    def tail(self, lines: int = 10) -> str:
        """The last lines."""
        with self._lock:
            return "\n".join(self._tail.rstrip().splitlines()[-lines:])

    def close(self) -> None:
        """Read to the end; somebody who left the group may hold the pipe open, so not for ever."""
        self._thread.join(timeout=2)

    def _pump(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        begun = ""  # a line is kept when it is whole: half a path is none that is known
        with contextlib.suppress(OSError):  # closed below us
            while data := os.read(self._source, READ_BYTES):
                lines, newline, begun = (begun + decoder.decode(data)).rpartition("\n")
                self._keep(lines + newline)
                if len(begun) > LOG_LINE_CHARS:
                    self._keep(begun)
                    begun = ""
        self._keep(begun)

    def _keep(self, text: str) -> None:
        text = showable(printable(text))
        with self._lock:
            self._waiting = (self._waiting + text)[-self._limit :]
            self._tail = (self._tail + text)[-TAIL_CHARS:]


def printable(text: str) -> str:
    """A text without characters that steer the terminal on which somebody reads it."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD))
    except psutil.Error:
        return False


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _clean(value: Any) -> Any:
    """The value with the characters replaced that PostgreSQL's text cannot hold: NUL and lone surrogates."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(item) for name, item in value.items()}
    return value
