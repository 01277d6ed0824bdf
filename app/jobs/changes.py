"""Changing a job's row: always with the event that tells of it, and with the parent that waits for it.

A parent holds no worker: it runs as long as one of its children does. Its row is locked after those of its children.
"""

from functools import partial
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session, aliased

from app.db import after_commit, db_now, transaction
from app.events import service as events
from app.jobs import fairness
from app.jobs.seats import vacate
from app.jobs.status import FINISHED, JobStatus, check, finished
from app.jobs.tables import Consumption, Job, JobStep
from app.webhooks import outbox

STATUS_EVENT = "status"
PROGRESS_EVENT = "progress"
UNFINISHED = tuple(status for status in JobStatus if status not in FINISHED)


def write(session: Session, job: Job, **values: Any) -> None:
    """Write columns of a job whose row is locked, and read the row again."""
    session.execute(
        update(Job).where(Job.id == job.id).values(**values),
        execution_options={"synchronize_session": False},
    )
    session.refresh(job)


def tell(session: Session, job: Job) -> None:
    """Record the event of a job's state."""
    said = {
        "status": job.status,
        "finished": job.finished_at is not None,
        "attempt": job.attempt,
        "stage": job.stage,
        "problem": job.problem,
    }
    events.record(session, job.project_id, job.id, STATUS_EVENT, said)


def change(session: Session, job: Job, status: JobStatus, **values: Any) -> None:
    """Change the state of a job whose row is locked, and tell.

    Raises:
        Conflict: the table of states does not allow it.
    """
    check(job.status, status)
    write(session, job, status=status, **values)
    tell(session, job)


def end(
    session: Session,
    job: Job,
    status: JobStatus,
    result: dict[str, Any] | None = None,
    problem: dict[str, Any] | None = None,
) -> JobStatus:
    """End a job whose row is locked: nothing of it runs any more. Its parent is settled after the commit.

    Raises:
        Conflict: the table of states does not allow it.
    """
    session.execute(
        update(JobStep).where(JobStep.job_id == job.id, JobStep.status == "running").values(status="failed"),
        execution_options={"synchronize_session": False},
    )
    over = {"finished_at": db_now(), "lease_expires_at": None}
    change(session, job, status, **over, result=result, problem=problem)
    if job.started_at is not None and job.finished_at is not None and job.queue != fairness.NO_QUEUE:
        waiting = (
            (job.finished_at - job.handed_over_at).total_seconds() if job.handed_over_at is not None else 0.0
        )
        seconds = (job.finished_at - job.started_at).total_seconds() - job.waited_seconds - waiting
        seconds += job.nodes_seconds + vacate(session, job.id)
        session.add(
            Consumption(
                job_id=job.id, project_id=job.project_id, seconds=seconds, finished_at=job.finished_at
            )
        )
        fairness.ring_next(session, job.project_id)
    outbox.job_ended(session, job)
    if job.parent_id is not None:
        # in a transaction of its own: two children that end at once do not wait for each other
        after_commit(session, partial(_settle_parent, job.parent_id))
    return status


def settle_parents(session: Session) -> list[str]:
    """End the parents whose children have all ended: those that a crash kept `end` from settling. Their ids."""
    child, open_child = aliased(Job), aliased(Job)
    waiting = (
        select(Job.id)
        .where(
            Job.status.in_((JobStatus.RUNNING, JobStatus.CANCELLING)),
            select(child.id).where(child.parent_id == Job.id).exists(),
            ~select(open_child.id)
            .where(open_child.parent_id == Job.id, open_child.status.in_(UNFINISHED))
            .exists(),
        )
        .order_by(Job.id)
    )
    return [id_ for id_ in session.scalars(waiting).all() if settle(session, id_)]


def settle(session: Session, parent_id: str) -> bool:
    """End a parent if all its children have, else write how many; False where it had ended before."""
    unfinished = select(Job).where(Job.id == parent_id, Job.status.in_(UNFINISHED)).with_for_update()
    parent = session.scalar(unfinished, execution_options={"populate_existing": True})
    if parent is None:
        return False
    children = list(
        session.scalars(
            select(Job).where(Job.parent_id == parent_id).order_by(Job.created_at, Job.id),
            execution_options={"populate_existing": True},
        )
    )
    done = sum(finished(child.status) for child in children)
    progress = {"done": done, "total": len(children), "message": "targets"}
    write(session, parent, progress=progress)
    if done < len(children):
        events.record(
            session, parent.project_id, parent_id, PROGRESS_EVENT, {"stage": parent.stage, **progress}
        )
        return False
    status = _outcome(parent, children)
    end(session, parent, status, problem=None if status is JobStatus.SUCCEEDED else _why(children))
    return True


def _settle_parent(parent_id: str) -> None:
    with transaction() as session:
        settle(session, parent_id)


def _outcome(parent: Job, children: list[Job]) -> JobStatus:
    found = {JobStatus(child.status) for child in children}
    if found == {JobStatus.SUCCEEDED}:
        return JobStatus.SUCCEEDED
    if parent.status == JobStatus.CANCELLING:
        return JobStatus.CANCELLED
    worst_first = (JobStatus.FAILED, JobStatus.TIMED_OUT, JobStatus.CANCELLED)
    return next(status for status in worst_first if status in found)


def _why(children: list[Job]) -> dict[str, Any]:
    """The problem of the first child that brought the worst end, saying of all what became of them."""
    bad = [child for child in children if child.status != JobStatus.SUCCEEDED]
    bad.sort(key=lambda child: child.status != JobStatus.FAILED)  # stable: failed ones first
    listed = [
        {
            "job": child.id,
            "target": child.request["targets"][0]["runtime"],
            "status": child.status,
            "code": (child.problem or {}).get("code"),
            "detail": (child.problem or {}).get("detail"),
        }
        for child in bad
    ]
    first = listed[0]
    detail = f"{len(bad)} of {len(children)} targets did not succeed; {first['target']}: {first['detail']}"
    return {**(bad[0].problem or {}), "detail": detail, "errors": listed}
