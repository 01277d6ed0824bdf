"""Who is next: the projects take turns, however many jobs each has queued, and none runs more than it may."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Select, SQLColumnExpression, func, not_, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.auth.limits import NO_LIMIT, limits_of, lock
from app.auth.tables import Project
from app.config import get_settings
from app.db import db_now
from app.jobs.status import JobStatus
from app.jobs.tables import Job
from app.queue import send_job

NO_QUEUE = ""  # a parent's: no worker takes it, and it takes none


@dataclass(frozen=True)
class Next:
    """The job that is to be claimed next, and whose it is."""

    job_id: str
    project_id: str


def next_in_line(session: Session, queue: str, without: Collection[str] = ()) -> Next | None:
    """The job of a queue that is to be claimed next, None where none waits or may run. `without`: ids that are passed over.

    Of the projects that have a job there, the one that runs the fewest jobs is next; of several, the one whose last claim is
    longest ago. Within a project it is the oldest job. One lookup in an index for each project.
    """
    running = _running().where(Job.project_id == Project.id).correlate(Project).scalar_subquery()
    oldest = (
        select(Job.id)
        .where(Job.project_id == Project.id, Job.status == JobStatus.QUEUED, Job.queue == queue, due())
        .where(*([Job.id.not_in(without)] if without else []))
        .order_by(Job.created_at, Job.id)
        .limit(1)
        .correlate(Project)
        .scalar_subquery()
    )
    line = select(
        oldest.label("job"), running.label("running"), Project.served_at, Project.max_running_jobs, Project.id
    ).subquery()
    found = session.execute(
        select(line.c.job, line.c.id)
        .where(line.c.job.is_not(None), _may_run(line.c.running, line.c.max_running_jobs))
        .order_by(line.c.running, line.c.served_at.asc().nulls_first(), line.c.id)
        .limit(1)
    ).one_or_none()
    return None if found is None else Next(found.job, found.id)


def due() -> ColumnElement[bool]:
    """Whether a queued job is to be claimed now: it does not wait for nodes."""
    return or_(Job.not_before.is_(None), Job.not_before < db_now())


def full_projects(session: Session) -> list[str]:
    """The projects that run as many jobs as they may: a message for their others would be for nothing."""
    running = _running().where(Job.project_id == Project.id).correlate(Project).scalar_subquery()
    return list(session.scalars(select(Project.id).where(not_(_may_run(running, Project.max_running_jobs)))))


def take_place(session: Session, project_id: str) -> bool:
    """Whether one more job of the project may run. If so, nobody else takes that place before this transaction ends."""
    limit = limits_of(session, project_id).max_running_jobs
    if limit is None:
        return True
    try:
        with (
            session.begin_nested()
        ):  # left by an error, it gives the lock back: nobody waits for one while holding another
            lock(session, project_id)
            if count_running(session, project_id) >= limit:
                raise _Full
    except _Full:
        return False
    return True


def ring_next(session: Session, project_id: str) -> None:
    """A job of the project has ended: where others had to wait for its place, ring for them once that is committed.

    The messages of those that wait were used up when they might not run. One is sent to each queue that holds some.
    """
    if limits_of(session, project_id).max_running_jobs is None:
        return
    queue = NO_QUEUE
    while (waiting := _oldest_behind(session, project_id, queue)) is not None:
        job_id, queue = waiting
        send_job(session, job_id, queue)


def count_running(session: Session, project_id: str) -> int:
    """Jobs of a project that workers hold; parents do not count."""
    return session.scalar(_running().where(Job.project_id == project_id)) or 0


def _oldest_behind(session: Session, project_id: str, queue: str) -> tuple[str, str] | None:
    """The oldest job of the first queue whose name comes after `queue`, and that queue: one lookup in an index."""
    found = session.execute(
        select(Job.id, Job.queue)
        .where(Job.project_id == project_id, Job.status == JobStatus.QUEUED, Job.queue > queue)
        .order_by(Job.queue, Job.created_at, Job.id)
        .limit(1)
    ).one_or_none()
    return None if found is None else (found.id, found.queue)


def _running() -> Select[int]:
    return select(func.count()).where(
        Job.status.in_((JobStatus.RUNNING, JobStatus.CANCELLING)), Job.queue != NO_QUEUE
    )


def _may_run(running: ColumnElement[int], own: SQLColumnExpression[int | None]) -> ColumnElement[bool]:
    limit = func.coalesce(own, get_settings().project_max_running_jobs)
    return or_(limit == NO_LIMIT, running < limit)


class _Full(Exception):
    """The project runs as many jobs as it may."""
