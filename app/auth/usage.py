"""What a project holds now, what it may, and what it has had computed."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.artifacts.tables import Artifact
from app.auth import quotas
from app.auth.limits import Limits, limits_of
from app.datasets.tables import Dataset
from app.jobs import fairness
from app.jobs.tables import Consumption, Job, StepResult
from app.models.tables import Model
from app.uploads.tables import Upload


@dataclass(frozen=True)
class Consumed:
    """What ended within a span of time. `compute_seconds`: the sum of the jobs' times from their first claim to their end."""

    since: datetime
    until: datetime
    jobs: int
    compute_seconds: float


@dataclass(frozen=True)
class Usage:
    """What a project holds. `stored_bytes` counts a blob once, however many rows share it."""

    project: str
    stored_bytes: int
    models: int
    datasets: int
    artifacts: int
    cached_steps: int
    open_uploads: int
    jobs: dict[str, int]
    queued_jobs: int
    running_jobs: int
    limits: Limits
    consumed: Consumed


def usage(
    session: Session, project_id: str, since: datetime | None = None, until: datetime | None = None
) -> Usage:
    """Count what a project holds, and what it had computed from `since` (absent: this month's start, UTC) up to `until`."""

    def count(table: type[Model] | type[Dataset] | type[Artifact] | type[StepResult]) -> int:
        query = select(func.count()).select_from(table).where(table.project_id == project_id)
        return session.scalar(query) or 0

    by_status = session.execute(
        select(Job.status, func.count()).where(Job.project_id == project_id).group_by(Job.status)
    )
    uploads = select(func.count()).where(Upload.project_id == project_id, Upload.digest.is_(None))
    now = datetime.now(UTC)
    return Usage(
        project=project_id,
        stored_bytes=quotas.stored_bytes(session, project_id),
        models=count(Model),
        datasets=count(Dataset),
        artifacts=count(Artifact),
        cached_steps=count(StepResult),
        open_uploads=session.scalar(uploads) or 0,
        jobs={row[0]: row[1] for row in by_status},
        queued_jobs=quotas.count_queued(session, project_id),
        running_jobs=fairness.count_running(session, project_id),
        limits=limits_of(session, project_id),
        consumed=_consumed(
            session,
            project_id,
            since or now.replace(day=1, hour=0, minute=0, second=0, microsecond=0),
            until or now,
        ),
    )


def _consumed(session: Session, project_id: str, since: datetime, until: datetime) -> Consumed:
    jobs, seconds = session.execute(
        select(func.count(), func.coalesce(func.sum(Consumption.seconds), 0.0)).where(
            Consumption.project_id == project_id,
            Consumption.finished_at >= since,
            Consumption.finished_at < until,
        )
    ).one()
    return Consumed(since, until, jobs, float(seconds))
