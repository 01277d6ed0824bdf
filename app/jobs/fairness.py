"""Who is next: the projects take turns, however many jobs each has queued, and none runs more than it may."""

from sqlalchemy import func, or_, select, true
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.auth.tables import Project
from app.config import get_settings
from app.jobs.status import JobStatus
from app.jobs.tables import Job

NO_QUEUE = ""  # a parent's: no worker takes it, and it takes none


def next_in_line(session: Session, queue: str) -> str | None:
    """The job of a queue that is to be claimed next, None where none waits or may run.

    Of the projects that have a job there, the one that runs the fewest jobs is next; of several, the one whose last claim is
    longest ago. Within a project it is the oldest job. One lookup in an index for each project.
    """
    running = (
        select(func.count())
        .where(
            Job.project_id == Project.id,
            Job.status.in_((JobStatus.RUNNING, JobStatus.CANCELLING)),
            Job.queue != NO_QUEUE,
        )
        .correlate(Project)
        .scalar_subquery()
    )
    oldest = (
        select(Job.id)
        .where(Job.project_id == Project.id, Job.status == JobStatus.QUEUED, Job.queue == queue)
        .order_by(Job.created_at, Job.id)
        .limit(1)
        .correlate(Project)
        .scalar_subquery()
    )
    line = select(
        oldest.label("job"), running.label("running"), Project.served_at, Project.max_running_jobs, Project.id
    ).subquery()
    return session.scalar(
        select(line.c.job)
        .where(line.c.job.is_not(None), _may_run(line.c.running, line.c.max_running_jobs))
        .order_by(line.c.running, line.c.served_at.asc().nulls_first(), line.c.id)
        .limit(1)
    )


def _may_run(running: ColumnElement[int], own_limit: ColumnElement[int | None]) -> ColumnElement[bool]:
    everybodys = get_settings().project_max_running_jobs
    within_default = running < everybodys if everybodys else true()
    return or_(own_limit.is_not(None) & (running < own_limit), own_limit.is_(None) & within_default)
