"""What a project may use: bytes stored, jobs that wait and run. Who would pass a limit is answered 429 `quota_exceeded`.

A check that must not be raced past locks the project's row until the transaction ends, so that whoever comes second counts what
the first added. A project without the limit pays one lookup and locks nothing.
"""

from dataclasses import dataclass

from sqlalchemy import CompoundSelect, delete, func, select, union
from sqlalchemy.orm import Session

from app.artifacts.tables import Artifact
from app.auth.limits import limits_of, lock
from app.datasets.tables import Dataset
from app.errors import QuotaExceeded
from app.jobs.status import JobStatus
from app.jobs.tables import Job, StepResult
from app.models.tables import Model
from app.references import chunks, release
from app.retention.steps import surplus
from app.uploads.tables import Upload


def stored_bytes(session: Session, project_id: str, *, with_steps: bool = True) -> int:
    """Bytes that a project stores: uploads (open ones too), artifacts and stored steps; a blob that rows share counts once."""
    blobs = _blobs(project_id, with_steps=with_steps).subquery()
    whole = session.scalar(select(func.coalesce(func.sum(blobs.c.size_bytes), 0)))
    arriving = session.scalar(
        select(func.coalesce(func.sum(Upload.offset_bytes), 0)).where(
            Upload.project_id == project_id, Upload.digest.is_(None)
        )
    )
    return int(whole or 0) + int(arriving or 0)


@dataclass
class StorageRoom:
    """What an upload may still bring while it streams. No lock is held meanwhile: `check_storage` has the last word."""

    limit_bytes: int | None
    left_bytes: int

    def take(self, size_bytes: int) -> None:
        """Use up some of it.

        Raises:
            QuotaExceeded: there is not as much.
        """
        if self.limit_bytes is None:
            return
        if size_bytes > self.left_bytes:
            raise storage_exceeded(self.limit_bytes)
        self.left_bytes -= size_bytes


def storage_room(session: Session, project_id: str) -> StorageRoom:
    """What an upload of the project may bring now; stored steps count as free, since they give way."""
    limit = limits_of(session, project_id).max_stored_bytes
    if limit is None:
        return StorageRoom(None, 0)
    return StorageRoom(limit, limit - stored_bytes(session, project_id, with_steps=False))


def check_storage(session: Session, project_id: str, more_bytes: int) -> None:
    """Hold what a project stores, and `more_bytes` that it is about to, against its quota; stored steps give way first.

    Rows that this transaction has added count already: after adding them, ask with 0. Needs a transaction that may write.

    Raises:
        QuotaExceeded: it would be more than the project may store.
    """
    limit = limits_of(session, project_id).max_stored_bytes
    if limit is None:
        return
    lock(session, project_id)
    excess = stored_bytes(session, project_id) + more_bytes - limit
    if excess <= 0:
        return
    _forget_steps(session, project_id, excess)
    stored = stored_bytes(session, project_id)
    if stored + more_bytes > limit:
        raise storage_exceeded(limit, stored)


def storage_exceeded(limit: int, stored: int | None = None) -> QuotaExceeded:
    """The error of a project that would store more than it may."""
    now = f", {stored} of them now" if stored is not None else ""
    return QuotaExceeded(
        f"the project may store {limit} bytes{now}, and this would be more",
        hint="delete models, datasets, artifacts or jobs that are not needed; `GET /v1/usage` says what there is",
    )


def check_queued(session: Session, project_id: str, more_jobs: int) -> None:
    """Hold the jobs of a project that wait, and `more_jobs` that are about to, against its quota.

    Raises:
        QuotaExceeded: more would wait than may.
    """
    limit = limits_of(session, project_id).max_queued_jobs
    if limit is None:
        return
    lock(session, project_id)
    queued = count_queued(session, project_id)
    if queued + more_jobs > limit:
        brings = "this one" if more_jobs == 1 else f"the {more_jobs} targets of this one"
        raise QuotaExceeded(
            f"{queued} jobs of the project wait, {limit} may: {brings} would be too many",
            hint="try again once some have started, or cancel some; `GET /v1/usage` says how many wait",
        )


def count_queued(session: Session, project_id: str) -> int:
    """Jobs of a project that wait for a worker."""
    waiting = select(func.count()).where(Job.project_id == project_id, Job.status == JobStatus.QUEUED)
    return session.scalar(waiting) or 0


def _blobs(project_id: str, *, with_steps: bool) -> CompoundSelect[tuple[str, int]]:
    whole = [
        select(Model.upload_digest.label("digest"), Model.size_bytes).where(Model.project_id == project_id),
        select(Dataset.upload_digest, Dataset.size_bytes).where(Dataset.project_id == project_id),
        select(Artifact.digest, Artifact.size_bytes).where(Artifact.project_id == project_id),
        select(Upload.digest, Upload.offset_bytes).where(
            Upload.project_id == project_id, Upload.digest.is_not(None)
        ),
    ]
    if with_steps:
        whole.append(
            select(StepResult.digest, StepResult.size_bytes).where(StepResult.project_id == project_id)
        )
    return union(*whole)


def _forget_steps(session: Session, project_id: str, excess_bytes: int) -> None:
    """Make room: forget stored steps, those first that were not used for longest. Never what a running job may have used."""
    steps_bytes = stored_bytes(session, project_id) - stored_bytes(session, project_id, with_steps=False)
    found = surplus(session, project_id, max(0, steps_bytes - excess_bytes))
    for some in chunks(found.trees):
        session.execute(
            delete(StepResult).where(
                StepResult.project_id == project_id,
                StepResult.digest.in_(some),
                StepResult.last_used_at < found.unused_since,
            ),
            execution_options={"synchronize_session": False},
        )
    release(session, trees=found.trees)
