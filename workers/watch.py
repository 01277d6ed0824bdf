"""Two threads beside each child: one renews the hold, one kills the child when there is a reason to.

They are two so that a database which does not answer keeps no child beyond its limits or its lease.
"""

import threading
import time
from dataclasses import dataclass

import structlog

from workers import running
from workers.child_process import ChildProcess
from workers.hold import Hold, Stop
from workers.sandbox.limits import resident_bytes

TICK_SECONDS = 1.0
SETTLE_SECONDS = 5.0  # a renewal that takes longer ends by itself, and finds the attempt over

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Limits:
    """How long a child may take, in seconds; what it may hold is said in `ChildLimits`."""

    running_seconds: float
    silent_seconds: float


class Watch(threading.Thread):
    """Renews from the claim until the attempt is settled; `stopped` says why the child was killed, if it was."""

    def __init__(self, hold: Hold, limits: Limits):
        super().__init__(name="watch", daemon=True)
        self._hold = hold
        self._limits = limits
        self._deadline = time.monotonic() + limits.running_seconds
        self._child: ChildProcess | None = None
        self._settled = threading.Event()
        self._told: Stop | None = None  # by the database
        self._renewing = threading.Thread(target=self._renew, name="renew", daemon=True)
        self.stopped: Stop | None = None

    def run(self) -> None:
        """Look every second for a reason to stop the child; the hold is renewed until the attempt is settled."""
        self._renewing.start()
        while not self._settled.wait(TICK_SECONDS):
            try:
                self._look()
            except Exception:
                log.exception("watch_failed")

    def attend(self, child: ChildProcess) -> None:
        """Watch this child from here on."""
        self._child = child

    def child_done(self) -> None:
        """The child said its last line: what it said is being stored now, and only the hold matters still."""
        self._child = None

    def settle(self) -> None:
        """The attempt is over."""
        self._settled.set()
        self.join()
        self._renewing.join(SETTLE_SECONDS)

    def _renew(self) -> None:
        while not self._settled.wait(TICK_SECONDS):
            try:
                self._told = self._hold.poll() or self._told
            except Exception:
                log.exception("renewal_failed")

    def _look(self) -> None:
        child = self._child
        if self.stopped is not None:
            return
        told = Stop.LOST if self._hold.outlived() else self._told
        self.stopped = told or (self._reason(child) if child is not None else None)
        if self.stopped is None or child is None:
            return
        if self.stopped in (Stop.CANCELLED, Stop.SHUTDOWN):
            child.stop()
        else:
            child.kill()

    def _reason(self, child: ChildProcess) -> Stop | None:
        if running.stopping.is_set():
            return Stop.SHUTDOWN
        if time.monotonic() > self._deadline:
            return Stop.OVERTIME
        if child.silent_seconds > self._limits.silent_seconds:
            return Stop.SILENT
        members, limits = child.members(), child.limits
        if len(members) > limits.processes:
            return Stop.PROCESSES
        if resident_bytes(members, limits.memory_bytes) > limits.memory_bytes:
            return Stop.MEMORY
        return Stop.DISK if child.disk.used_bytes() > limits.scratch_bytes else None
