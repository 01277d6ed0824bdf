"""The step cache of a project, held to a size: what was not used for longest goes first."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.db import db_now, transaction
from app.jobs.changes import UNFINISHED
from app.jobs.tables import Job, StepResult
from app.references import chunks, release


@dataclass(frozen=True)
class Surplus:
    """Stored trees that a project has no room for: digest -> bytes; and before when their steps must have been used last."""

    trees: dict[str, int]
    unused_since: datetime


def surplus(session: Session, project_id: str, keep_bytes: int) -> Surplus:
    """The least recently used trees, so that the others fit into `keep_bytes`. A tree of several steps counts once.

    What was used since the oldest unfinished job began stays: that job may have taken it, or go on from it.
    """
    now = session.execute(
        select(db_now())
    ).scalar_one()  # before the jobs: one that begins later uses its steps later
    began = session.scalar(
        select(func.min(Job.started_at)).where(Job.project_id == project_id, Job.status.in_(UNFINISHED))
    )
    unused_since = min(now, began) if began is not None else now
    last_used = func.max(StepResult.last_used_at)
    tree = (
        select(
            StepResult.digest,
            func.max(StepResult.size_bytes).label("size_bytes"),
            last_used.label("last_used"),
        )
        .where(StepResult.project_id == project_id)
        .group_by(StepResult.digest)
        .subquery()
    )
    newest_first = (tree.c.last_used.desc(), tree.c.digest)
    summed = select(tree, func.sum(tree.c.size_bytes).over(order_by=newest_first).label("total")).subquery()
    query = (
        select(summed.c.digest, summed.c.size_bytes)
        .where(summed.c.total > keep_bytes, summed.c.last_used < unused_since)
        .order_by(summed.c.last_used)
    )
    return Surplus({row[0]: row[1] for row in session.execute(query)}, unused_since)


def remove(project_id: str, found: Surplus) -> list[str]:
    """Forget those steps; the trees that are no step's any more. A step that was used meanwhile stays."""
    gone = []
    for some in chunks(found.trees):
        with transaction() as session:
            steps = StepResult.project_id == project_id, StepResult.digest.in_(some)
            session.execute(
                delete(StepResult).where(*steps, StepResult.last_used_at < found.unused_since),
                execution_options={"synchronize_session": False},
            )
            left = set(session.scalars(select(StepResult.digest).where(*steps)))
            forgotten = [digest for digest in some if digest not in left]
            release(session, trees=forgotten)
        gone += forgotten
    return gone
