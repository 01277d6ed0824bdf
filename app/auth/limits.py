"""The limits that hold for a project: its own, else the installation's."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.auth.tables import Project
from app.config import get_settings

NO_LIMIT = 0  # of a project, and of the installation; a project's None is the installation's


@dataclass(frozen=True)
class Limits:
    """The limits that hold for a project; None: no limit."""

    max_stored_bytes: int | None
    max_queued_jobs: int | None
    max_running_jobs: int | None
    max_requests_per_minute: int | None


def effective(own: int | None, everybodys: int) -> int | None:
    """The limit that holds where a project has `own` (None: the installation's), None where there is none."""
    limit = everybodys if own is None else own
    return None if limit == NO_LIMIT else limit


def limits_of(session: Session, project_id: str) -> Limits:
    """The limits that hold for a project."""
    settings = get_settings()
    own = session.execute(
        select(
            Project.max_stored_bytes,
            Project.max_queued_jobs,
            Project.max_running_jobs,
            Project.max_requests_per_minute,
        ).where(Project.id == project_id)
    ).one()
    return Limits(
        effective(own.max_stored_bytes, settings.project_max_stored_bytes),
        effective(own.max_queued_jobs, settings.project_max_queued_jobs),
        effective(own.max_running_jobs, settings.project_max_running_jobs),
        effective(own.max_requests_per_minute, settings.key_max_requests_per_minute),
    )


def lock(session: Session, project_id: str) -> None:
    """Let nobody else check a limit of the project before this transaction ends. Rows of the project can still be added."""
    session.execute(
        select(Project.id).where(Project.id == project_id).with_for_update(key_share=True)
    ).one_or_none()
