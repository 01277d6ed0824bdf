"""A worker's hold on a job. Every write carries the attempt: a stale worker writes nothing.

A job is held while its row says `running` or `cancelling` under the holder's attempt number. A function that finds it
otherwise changes nothing and says so (None or False); the holder then stops its work.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import and_, delete, func, not_, or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.auth.tables import Project
from app.config import get_settings
from app.db import db_now
from app.errors import Cancelled, Crashed, TimedOut
from app.events import service as events
from app.jobs import changes
from app.jobs.fairness import due, full_projects, next_in_line, ring_next, take_place
from app.jobs.status import JobStatus
from app.jobs.tables import Job, JobStep
from app.queue import send_job

HELD = (JobStatus.RUNNING, JobStatus.CANCELLING)
OVERDUE_GRACE_SECONDS = (
    60.0  # a living supervisor ends its job by itself, with the log, before the sweep does
)
SWEEP_LIMIT = 200
MOST_LEFT = 50  # jobs that a worker passes over in one look


def claim_next(
    session: Session,
    rung: str,
    worker_id: str,
    lease_seconds: float,
    able: Callable[[Mapping[str, Any]], bool] = lambda request: True,
) -> Job | None:
    """Take the job that is next in the queue of the one that was rung for; None where none waits or may run.

    There are at least as many messages as jobs that wait, so it does not matter which message takes which job. A job whose
    request this worker is not `able` to do is left to others; its message is sent again by the sweep.
    """
    queue = session.scalar(select(Job.queue).where(Job.id == rung))
    left: set[str] = set()
    while queue and len(left) < MOST_LEFT and (found := next_in_line(session, queue, left)) is not None:
        if not able(session.scalars(select(Job.request).where(Job.id == found.job_id)).one()):
            left.add(found.job_id)
            continue
        if not take_place(session, found.project_id):
            continue  # another worker took the project's last place meanwhile
        if (job := claim(session, found.job_id, worker_id, lease_seconds)) is not None:
            return job
    return None


def claim(session: Session, job_id: str, worker_id: str, lease_seconds: float) -> Job | None:
    """Take a queued job; None where somebody has it, it is over, or its time is over (then it ends `timed_out`)."""
    request = session.scalar(select(Job.request).where(Job.id == job_id))
    if request is None:
        return None
    job: Job | None = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.status == JobStatus.QUEUED, _in_time())
        .values(
            status=JobStatus.RUNNING,
            attempt=Job.attempt + 1,
            stalled_attempts=Job.stalled_attempts + 1,
            worker_id=worker_id,
            lease_expires_at=db_now(lease_seconds),
            started_at=func.coalesce(Job.started_at, db_now()),
            running_until=func.coalesce(Job.running_until, db_now(request["limits"]["running_seconds"])),
            stage="fetching",
            progress={"done": 0, "total": 0, "message": ""},
        )
        .returning(Job),
        execution_options={"synchronize_session": False, "populate_existing": True},
    )
    if job is None:
        _end_overdue(session, Job.id == job_id)
        return None
    if job.handed_over_at is not None:
        _go_on(session, job)
    session.execute(delete(JobStep).where(JobStep.job_id == job_id))  # a new attempt lists its own
    session.execute(update(Project).where(Project.id == job.project_id).values(served_at=db_now()))
    changes.tell(session, job)
    return job


def renew(session: Session, job_id: str, attempt: int, lease_seconds: float) -> JobStatus | None:
    """Hold on for `lease_seconds` more: the job's status, or None where the hold is lost."""
    status = session.scalar(
        update(Job)
        .where(*_held(job_id, attempt))
        .values(lease_expires_at=db_now(lease_seconds))
        .returning(Job.status),
        execution_options={"synchronize_session": False},
    )
    return None if status is None else JobStatus(status)


def look(session: Session, job_id: str, attempt: int) -> JobStatus | None:
    """The status of a job that this attempt holds; None where the hold is lost."""
    status = session.scalar(select(Job.status).where(*_held(job_id, attempt)))
    return None if status is None else JobStatus(status)


def seconds_left(session: Session, job_id: str) -> float:
    """How long a claimed job may still run, by the database's clock."""
    until, now = session.execute(select(Job.running_until, db_now()).where(Job.id == job_id)).one()
    return float((until - now).total_seconds()) if until is not None else 0.0


def progress(session: Session, job_id: str, attempt: int, stage: str, said: Mapping[str, Any]) -> bool:
    """Write how far the job is; `said` is {done, total, message}."""
    job = hold(session, job_id, attempt)
    if job is None:
        return False
    values = {"done": said["done"], "total": said["total"], "message": said["message"]}
    changes.write(session, job, stage=stage, progress=values)
    events.record(session, job.project_id, job.id, "progress", {"stage": stage, **values})
    return True


def record_step(session: Session, job_id: str, attempt: int, step: Mapping[str, Any]) -> bool:
    """Write a step as it begins or ends; `step` is {index, name, status, cached, seconds, key, facts}."""
    job = hold(session, job_id, attempt)
    if job is None:
        return False
    visible = {name: step[name] for name in ("index", "name", "status", "cached", "seconds", "key")}
    session.merge(JobStep(job_id=job.id, project_id=job.project_id, facts=step["facts"], **visible))
    events.record(session, job.project_id, job.id, "step", visible)
    return True


def step_stored(session: Session, job_id: str, attempt: int) -> bool:
    """The attempt stored a step that was not there before: attempts that got nowhere are counted from here."""
    job = hold(session, job_id, attempt)
    if job is None:
        return False
    changes.write(session, job, stalled_attempts=0)
    return True


def finish(
    session: Session,
    job_id: str,
    attempt: int,
    status: JobStatus,
    result: dict[str, Any] | None = None,
    problem: dict[str, Any] | None = None,
) -> bool:
    """End the job; a cancel that came too late changes nothing. False where the hold is lost."""
    job = hold(session, job_id, attempt)
    if job is None:
        return False
    changes.end(session, job, status, result, problem)
    return True


def give_back(session: Session, job_id: str, attempt: int) -> JobStatus | None:
    """Queue a job again whose worker stops: no fault of the job, so the attempt does not count as stalled."""
    job = hold(session, job_id, attempt)
    if job is None:
        return None
    if job.status == JobStatus.CANCELLING:
        return _end_cancelled(session, job)
    changes.write(session, job, stalled_attempts=max(0, job.stalled_attempts - 1))
    return _requeue(session, job)


def hand_over(session: Session, job_id: str, attempt: int, queue: str) -> JobStatus | None:
    """Queue a job where another worker goes on with it, as this one can do no more. The wait is pending time, not running time."""
    job = hold(session, job_id, attempt)
    if job is None:
        return None
    if job.status == JobStatus.CANCELLING:
        return _end_cancelled(session, job)
    pending_until = db_now(job.request["limits"]["pending_seconds"])
    waiting = {"handed_over_at": db_now(), "pending_until": pending_until, "stalled_attempts": 0}
    changes.write(session, job, queue=queue, **waiting)
    status = _requeue(session, job)
    ring_next(session, job.project_id)
    return status


def retry_later(
    session: Session, job_id: str, attempt: int, problem: dict[str, Any], max_attempts: int
) -> JobStatus | None:
    """Queue a job again whose attempt died, or fail it with `problem` after `max_attempts` that stored nothing new."""
    job = hold(session, job_id, attempt)
    return None if job is None else _retry(session, job, problem, max_attempts)


def postpone(
    session: Session, job_id: str, attempt: int, seconds: float, problem: dict[str, Any] | None, most: int
) -> JobStatus | None:
    """Queue a job again whose nodes were not all there, not to be claimed within `seconds`: no fault of the job.

    `problem`: there are not so many, and it fails with this after `most` times; None: others have them now.
    """
    job = hold(session, job_id, attempt)
    if job is None:
        return None
    if job.status == JobStatus.CANCELLING:
        return _end_cancelled(session, job)
    gathered = job.gathered + (problem is not None)
    if gathered >= most:
        return changes.end(session, job, JobStatus.FAILED, problem=problem)
    stalled = max(0, job.stalled_attempts - 1)
    changes.write(session, job, gathered=gathered, stalled_attempts=stalled)
    resend = get_settings().resend_seconds  # the sweep rings as soon as it may be claimed
    return _requeue(session, job, not_before=db_now(seconds), sent_at=db_now(seconds - resend))


def expire(session: Session, max_attempts: int) -> list[str]:
    """Settle the jobs whose lease or time is over (queued again, or ended), and parents left behind. Their ids."""
    lease_over = and_(Job.status.in_(HELD), Job.lease_expires_at < db_now())
    forgotten = and_(Job.status == JobStatus.RUNNING, Job.running_until < db_now(-OVERDUE_GRACE_SECONDS))
    settled = _end_overdue(session)
    for job in _locked(session, or_(lease_over, forgotten)):
        if job.status == JobStatus.CANCELLING:
            _end_cancelled(session, job)
        elif session.scalar(select(Job.running_until < db_now()).where(Job.id == job.id)):
            _end_timed_out(session, job)
        else:
            lost = Crashed(
                "the worker that ran this job was not heard of any more",
                stage=job.stage,
                hint="look into the worker's log; memory that ran out on the machine is the usual cause",
            )
            _retry(session, job, lost.problem(), max_attempts)
        settled.append(job.id)
    return settled + changes.settle_parents(session)


def abandon(session: Session, max_attempts: int) -> None:
    """Settle every job that is held, and ring for every one that waits. Only where no worker is left that may hold one."""
    session.execute(
        update(Job)
        .where(Job.status.in_(HELD), Job.worker_id.is_not(None))
        .values(lease_expires_at=db_now(-1)),
        execution_options={"synchronize_session": False},
    )
    expire(session, max_attempts)
    for job_id, queue in session.execute(
        select(Job.id, Job.queue).where(Job.status == JobStatus.QUEUED).order_by(Job.created_at, Job.id)
    ):
        send_job(session, job_id, queue)


def queued_by_queue(session: Session, resend_seconds: float) -> dict[str, int]:
    """How many jobs that may run wait in each queue in which the message of one is older than `resend_seconds`."""
    oldest = func.min(Job.sent_at)
    query = (
        select(Job.queue, func.count())
        .where(Job.status == JobStatus.QUEUED, Job.project_id.not_in(full_projects(session)), due())
        .group_by(Job.queue)
        .having(oldest < db_now(-resend_seconds))
    )
    return {row[0]: row[1] for row in session.execute(query)}


def stale_queued(session: Session, queue: str, resend_seconds: float) -> list[str]:
    """Jobs of a queue that may run and whose message must be sent again; marked as sent by the same statement."""
    statement = (
        update(Job)
        .where(
            Job.status == JobStatus.QUEUED,
            Job.queue == queue,
            Job.sent_at < db_now(-resend_seconds),
            due(),
            Job.project_id.not_in(full_projects(session)),
        )
        .values(sent_at=db_now())
        .returning(Job.id)
    )
    return list(session.scalars(statement, execution_options={"synchronize_session": False}))


def hold(session: Session, job_id: str, attempt: int) -> Job | None:
    """The job's row, locked until the transaction ends, if this attempt still holds it."""
    return next(iter(_locked(session, *_held(job_id, attempt))), None)


def _held(job_id: str, attempt: int) -> tuple[ColumnElement[bool], ...]:
    return Job.id == job_id, Job.attempt == attempt, Job.status.in_(HELD)


def _in_time() -> ColumnElement[bool]:
    """The pending limit counts up to the first attempt, and while a job waits that was handed over; else the running limit."""
    pending = or_(Job.started_at.is_(None), Job.handed_over_at.is_not(None))
    return or_(and_(pending, Job.pending_until > db_now()), and_(not_(pending), Job.running_until > db_now()))


def _go_on(session: Session, job: Job) -> None:
    """A job that was handed over is claimed: its running time goes on from where it stopped."""
    now = session.scalars(select(db_now())).one()
    assert job.handed_over_at is not None
    assert job.running_until is not None
    waited = now - job.handed_over_at
    changes.write(
        session,
        job,
        running_until=job.running_until + waited,
        waited_seconds=job.waited_seconds + waited.total_seconds(),
        handed_over_at=None,
    )


def _locked(session: Session, *where: ColumnElement[bool]) -> list[Job]:
    statement = select(Job).where(*where).order_by(Job.id).limit(SWEEP_LIMIT).with_for_update()
    return list(session.scalars(statement, execution_options={"populate_existing": True}))


def _end_cancelled(session: Session, job: Job) -> JobStatus:
    problem = Cancelled("the job was cancelled while it ran", stage=job.stage).problem()
    return changes.end(session, job, JobStatus.CANCELLED, problem=problem)


def _end_timed_out(session: Session, job: Job) -> JobStatus:
    limit = "pending" if job.started_at is None or job.handed_over_at is not None else "running"
    seconds = job.request["limits"][f"{limit}_seconds"]
    what = "no worker took the job" if limit == "pending" else "the job was not done"
    problem = TimedOut(
        f"{what} within its {limit} limit of {seconds:g} seconds",
        stage=job.stage,
        param=f"limits.{limit}_seconds",
        hint="see `GET /v1/workers` for who can take it" if limit == "pending" else "raise the limit",
    )
    return changes.end(session, job, JobStatus.TIMED_OUT, problem=problem.problem())


def _end_overdue(session: Session, *where: ColumnElement[bool]) -> list[str]:
    overdue = _locked(session, Job.status == JobStatus.QUEUED, ~_in_time(), *where)
    for job in overdue:
        _end_timed_out(session, job)
    return [job.id for job in overdue]


def _retry(session: Session, job: Job, problem: dict[str, Any], max_attempts: int) -> JobStatus:
    if job.status == JobStatus.CANCELLING:
        return _end_cancelled(session, job)
    if job.stalled_attempts >= max_attempts:
        return changes.end(session, job, JobStatus.FAILED, problem=problem)
    return _requeue(session, job)


def _requeue(session: Session, job: Job, **later: Any) -> JobStatus:
    waiting = {"worker_id": None, "lease_expires_at": None, "stage": None, "sent_at": db_now(), **later}
    changes.change(session, job, JobStatus.QUEUED, **waiting)
    if not later:
        send_job(session, job.id, job.queue)
    return JobStatus.QUEUED
