"""A worker's hold on a job or on an inspection: renewed while it works, told when it must stop."""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

import structlog
from sqlalchemy.orm import Session

from app import inspections
from app.config import get_settings
from app.db import transaction
from app.fleet import devices
from app.jobs import lease
from app.jobs.status import JobStatus
from app.jobs.tables import Job
from workers import running
from workers.durable import AWAY, durably

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Stop(StrEnum):
    """Why a child was stopped."""

    LOST = "lost"  # somebody else may have the job by now
    CANCELLED = "cancelled"
    OVERTIME = "overtime"
    SILENT = "silent"
    MEMORY = "memory"
    PROCESSES = "processes"
    DISK = "disk"
    SHUTDOWN = "shutdown"


class Lost(Exception):
    """The hold is gone: nothing may be written any more."""


class Hold(ABC):
    """One attempt's right to write, since `claimed_at` (of `time.monotonic()`). `poll` is called every second by the watch."""

    def __init__(self, claimed_at: float) -> None:
        settings = get_settings()
        self._lease_seconds = settings.lease_seconds
        self._heartbeat_seconds = settings.heartbeat_seconds
        self._renewed = claimed_at
        self._lost = False

    def poll(self) -> Stop | None:
        """Renew when it is time; a reason to stop, if there is one."""
        if self._lost:
            return Stop.LOST
        now = time.monotonic()
        due = now - self._renewed >= self._heartbeat_seconds
        try:
            with transaction(readonly=not due) as session:
                stop = self._renew(session) if due else self._look(session)
        except AWAY:
            return Stop.LOST if self.outlived() else None
        if due:
            self._renewed = now
        self._lost = stop is Stop.LOST
        return stop

    def outlived(self) -> bool:
        """Whether the lease is over as far as we know: it could not be renewed for too long."""
        return self._lost or time.monotonic() - self._renewed > self._lease_seconds

    def write(self, work: Callable[[Session], T | None]) -> T:
        """One fenced transaction, done again while the database is away and the lease may still be ours.

        Raises:
            Lost: `work` says so by False or None, or the database stayed away.
        """
        try:
            done = durably(work, self.outlived)
        except AWAY as error:
            raise Lost from error
        if done is None or done is False:
            self._lost = True
            raise Lost
        return done

    @abstractmethod
    def _renew(self, session: Session) -> Stop | None: ...

    @abstractmethod
    def _look(self, session: Session) -> Stop | None: ...


class JobHold(Hold):
    """A claimed job. Devices that it measures on are renewed with it."""

    def __init__(self, job: Job, claimed_at: float):
        super().__init__(claimed_at)
        self.project_id = job.project_id
        self.job_id = job.id
        self.attempt = job.attempt
        self.holder = f"{job.id}/{job.attempt}"
        self.devices: set[str] = set()

    def _renew(self, session: Session) -> Stop | None:
        status = lease.renew(session, self.job_id, self.attempt, self._lease_seconds)
        for device in list(self.devices) if status is not None else []:
            if not devices.renew(session, running.HOST, device, self.holder, self._lease_seconds):
                log.warning("device_lost", device=device)  # the measurement's own control finds what that did
        return _stop_for(status)

    def release(self, device: str) -> None:
        """Give a device back; where the database is away, its lease ends by itself."""
        self.devices.discard(device)
        with contextlib.suppress(*AWAY), transaction() as session:
            devices.release(session, running.HOST, device, self.holder)

    def _look(self, session: Session) -> Stop | None:
        return _stop_for(lease.look(session, self.job_id, self.attempt))


class InspectionHold(Hold):
    """A claimed inspection."""

    def __init__(self, table: inspections.Table, subject_id: str, attempt: int, claimed_at: float):
        super().__init__(claimed_at)
        self.table = table
        self.subject_id = subject_id
        self.attempt = attempt

    def _renew(self, session: Session) -> Stop | None:
        held = inspections.renew(session, self.table, self.subject_id, self.attempt, self._lease_seconds)
        return None if held else Stop.LOST

    def _look(self, session: Session) -> Stop | None:
        return None if inspections.holds(session, self.table, self.subject_id, self.attempt) else Stop.LOST


def _stop_for(status: JobStatus | None) -> Stop | None:
    if status is None:
        return Stop.LOST
    return Stop.CANCELLED if status is JobStatus.CANCELLING else None
