"""What repairs: a loop in every worker, one at a time by a lock in the database."""

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app import inspections
from app.config import get_settings
from app.datasets.tables import Dataset
from app.db import db_now, transaction
from app.fleet.tables import Worker
from app.jobs import lease
from app.models.tables import Model
from app.queue import INSPECT_QUEUE, queue_depth, send_inspect, send_job
from workers import orphans, running, scratch
from workers.clock import DatabaseClock

LOCK_KEY = 0x6275726E697368  # "burnish"
FORGET_SECONDS = 30 * 24 * 3600.0  # until then, a job for what only this worker offered waits for it

log = structlog.get_logger(__name__)
_clock = DatabaseClock()


def sweep() -> None:
    """Settle lost jobs, ring again for what was not heard, forget old workers, remove abandoned folders."""
    settle()
    remove_abandoned()
    ring_again()  # last: it fails while the broker is away


def settle() -> None:
    """End or queue again the jobs whose lease or time is over.

    After a jump of the database's clock (a suspended laptop, a clock that was set) the holders get the time to renew first.
    """
    with transaction() as session:
        if _clock.steady(session) and alone(session):
            lease.expire(session, get_settings().max_attempts)
            session.execute(delete(Worker).where(Worker.last_seen_at < db_now(-FORGET_SECONDS)))


def ring_again() -> None:
    """Send messages that were lost: a queue holds fewer than there are jobs that wait in it.

    Raises:
        kombu.exceptions.OperationalError: the broker does not answer.
    """
    seconds = get_settings().resend_seconds
    with transaction(readonly=True) as session:
        jobs = lease.queued_by_queue(session, seconds)
        uploads = sum(inspections.waiting(session, table) for table in (Model, Dataset))
    silent = [queue for queue, count in jobs.items() if queue_depth(queue) < count]
    uploads_silent = uploads > 0 and queue_depth(INSPECT_QUEUE) < uploads
    with transaction() as session:
        if not alone(session):
            return
        for queue in silent:
            for job_id in lease.stale_queued(session, queue, seconds):
                send_job(session, job_id, queue)
        for table in (Model, Dataset) if uploads_silent else ():
            for subject_id in inspections.stale(session, table, seconds):
                send_inspect(session, subject_id)


def remove_abandoned() -> None:
    """Remove the scratch folders of this host whose attempts nobody holds, and what still runs of them."""
    root = get_settings().scratch_path
    for folder in root.iterdir() if root.is_dir() else ():
        owner = scratch.owner(folder.name)
        if owner is None or folder.name in running.attempts():
            continue
        with transaction(readonly=True) as session:
            held = _held(session, *owner)
        if not held:
            if (left := orphans.kill(folder.name)) > 0:
                log.warning("orphans_killed", attempt=folder.name, processes=left)
            scratch.remove(folder)


def alone(session: Session) -> bool:
    """Whether no other worker sweeps until this transaction ends. SQLite lets one transaction write at a time anyway."""
    if session.get_bind().dialect.name != "postgresql":
        return True
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(LOCK_KEY))))


def _held(session: Session, subject_id: str, attempt: int) -> bool:
    if subject_id.startswith("job_"):
        job_id, _, _ = subject_id.partition(".")  # behind the point, the worker that helps with it
        return lease.look(session, job_id, attempt) is not None
    table: inspections.Table = Model if subject_id.startswith("mdl_") else Dataset
    return inspections.holds(session, table, subject_id, attempt)
