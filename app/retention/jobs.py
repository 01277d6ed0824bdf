"""Finished jobs that a project keeps no longer, with everything that they made."""

from collections import defaultdict

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from app.artifacts.tables import Artifact
from app.db import db_now, transaction
from app.errors import Conflict, NotFound
from app.jobs import service
from app.jobs.tables import Job

BATCH = 50  # jobs deleted in one transaction
DAY_SECONDS = 86_400.0


def outlived(session: Session, project_id: str, keep_days: int) -> list[str]:
    """Jobs without a parent that ended more than `keep_days` ago, youngest first, in the order to delete them.

    A job stays as long as another one starts from what it (or a child of it) made; one that goes before it does not count.
    """
    old = (
        select(Job.id)
        .where(
            Job.project_id == project_id,
            Job.parent_id.is_(None),
            Job.finished_at < db_now(-keep_days * DAY_SECONDS),
        )
        .order_by(Job.created_at.desc(), Job.id.desc())
    )
    users = _users(session, project_id)
    going: dict[str, None] = {}  # in order
    for job_id in session.scalars(old):
        if users[job_id] <= going.keys():
            going[job_id] = None
    return list(going)


def sizes(session: Session, project_id: str) -> dict[str, int]:
    """The bytes of the artifacts of each job that has some, those of its children included."""
    family = func.coalesce(Job.parent_id, Job.id)
    query = (
        select(family, func.sum(Artifact.size_bytes))
        .join(Job, Job.id == Artifact.job_id)
        .where(Artifact.project_id == project_id)
        .group_by(family)
    )
    return {row[0]: int(row[1]) for row in session.execute(query)}


def remove(project_id: str, job_ids: list[str]) -> list[str]:
    """Delete jobs; those that are gone. One that somebody else deleted, or starts from, meanwhile is let be."""
    gone = []
    for start in range(0, len(job_ids), BATCH):
        with transaction() as session:
            for job_id in job_ids[start : start + BATCH]:
                try:
                    with session.begin_nested():
                        service.delete_job(session, project_id, job_id)
                except (Conflict, NotFound):
                    continue
                gone.append(job_id)
    return gone


def _users(session: Session, project_id: str) -> defaultdict[str, set[str]]:
    """Who starts from what a job made: parents' ids in place of their children's."""
    maker, user = aliased(Job), aliased(Job)
    made_by = func.coalesce(maker.parent_id, maker.id)
    used_by = func.coalesce(user.parent_id, user.id)
    query = (
        select(made_by, used_by)
        .select_from(user)
        .join(Artifact, Artifact.id == user.subject)
        .join(maker, maker.id == Artifact.job_id)
        .where(user.project_id == project_id, Artifact.project_id == project_id, made_by != used_by)
        .distinct()
    )
    users = defaultdict(set)
    for row in session.execute(query):
        users[row[0]].add(row[1])
    return users
