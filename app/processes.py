"""Processes that belong to this one: started in groups of their own, watched, restarted, stopped, logged to files."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

RESTARTS = 4
WINDOW_SECONDS = 120.0  # so many deaths within this time, and it is given up
FIRST_PAUSE_SECONDS = 0.5
TAIL_LINES = 15
TAIL_BYTES = 16 * 1024
ROTATE_BYTES = 16 * 1024 * 1024
IMPORTANT = frozenset({"warning", "error", "critical"})


@dataclass(frozen=True)
class Program:
    """What to run, and where its output goes; `stdin` is written to it at its start."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    stdin: bytes = b""
    pass_fds: tuple[int, ...] = ()


@dataclass
class Process:
    """A program that is kept running.

    `start` and `tend` must be called by a thread that lives until `stop`: the kernel takes that thread's end for the
    parent's death.
    """

    program: Program
    deaths: list[float] = field(default_factory=list)
    _running: subprocess.Popen[bytes] | None = None
    _start_again_at: float = 0.0
    _read_to: int = 0

    def start(self) -> None:
        """Start it."""
        program = self.program
        _rotate(program.log)
        self._read_to = program.log.stat().st_size if program.log.exists() else 0
        with program.log.open("ab") as log:
            self._running = subprocess.Popen(
                [sys.executable, "-m", "app.tethered", str(os.getpid()), *program.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(program.environment),
                pass_fds=program.pass_fds,
                start_new_session=True,
            )
        assert self._running.stdin is not None
        try:
            self._running.stdin.write(program.stdin)
            self._running.stdin.close()
        except BrokenPipeError:
            pass  # it is dead already; `tend` finds out

    @property
    def status(self) -> int | None:
        """The exit status, None while it runs or where it was never started."""
        return None if self._running is None else self._running.poll()

    def tend(self) -> str | None:
        """Look after it: start it again after a pause, if it died. What happened, for people; mostly None.

        Raises:
            GivenUp: it died too often.
        """
        now = time.monotonic()
        if self._start_again_at:
            if now >= self._start_again_at:
                self._start_again_at = 0.0
                self.start()
            return None
        status = self.status
        if status is None:
            return None
        self.deaths = [death for death in self.deaths if now - death < WINDOW_SECONDS] + [now]
        if len(self.deaths) > RESTARTS:
            raise GivenUp(self)
        pause = FIRST_PAUSE_SECONDS * 2.0 ** (len(self.deaths) - 1)
        self._start_again_at = now + pause
        return f"{self.program.name} {ended(status)}; starting it again in {pause:g} s"

    def ask_to_stop(self) -> None:
        """Send SIGTERM, if it runs."""
        self._start_again_at = 0.0
        if self._running is not None and self._running.poll() is None:
            self._running.terminate()

    def wait(self, deadline: float) -> bool:
        """Whether it ended before `deadline` (of `time.monotonic()`)."""
        if self._running is None:
            return True
        try:
            self._running.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Kill it with everything in its group, and reap it."""
        if self._running is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._running.pid, signal.SIGKILL)
        self._running.wait()

    def important_lines(self) -> list[str]:
        """Warnings and errors that it logged since the last call, shortened for a console."""
        with self.program.log.open("rb") as log:
            log.seek(self._read_to)
            new = log.read(TAIL_BYTES * 4)
        whole = new[: new.rfind(b"\n") + 1]
        self._read_to += len(whole)
        return [text for line in whole.splitlines() if (text := _important(line)) is not None]

    def tail(self) -> str:
        """The last lines of its log."""
        return tail_of(self.program.log)


@dataclass
class Recurring:
    """A program that is run anew every so many seconds, one run at a time. The same rule about threads as for a process."""

    process: Process
    every_seconds: float
    next_at: float  # of `time.monotonic()`
    _started: bool = False

    def tend(self) -> str | None:
        """Start it where it is time. What happened, for people: a run that failed."""
        if self.running:
            return None
        status = self.process.status if self._started else None
        self._started = time.monotonic() >= self.next_at
        if self._started:
            self.next_at = time.monotonic() + self.every_seconds
            self.process.start()
        return f"{self.process.program.name} {ended(status)}" if status else None

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self._started and self.process.status is None


class GivenUp(Exception):
    """A program died so often that starting it again is no use."""

    def __init__(self, process: Process):
        super().__init__(
            f"{process.program.name} {ended(process.status or 0)}, {len(process.deaths)} times in a row"
        )
        self.process = process


def ended(status: int) -> str:
    """How a process ended, for people."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def tail_of(path: Path) -> str:
    """The last lines of a log file."""
    if not path.exists():
        return ""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = deque(log.read().decode("utf-8", "replace").splitlines(), TAIL_LINES)
    return "\n".join(lines)


def _important(line: bytes) -> str | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or entry.get("level") not in IMPORTANT:
        return None
    more = {
        name: value
        for name, value in entry.items()
        if name not in ("event", "level", "timestamp", "logger", "exception")
    }
    text = " ".join(
        [f"{entry['level']}: {entry.get('event')}", *(f"{name}={value}" for name, value in more.items())]
    )
    return text if len(text) <= 300 else text[:299] + "…"


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > ROTATE_BYTES:
        log.replace(log.with_name(log.name + ".1"))
