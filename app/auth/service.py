"""Keys and projects: made, listed, revoked, recognized; and what a project uses."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import func, or_, select, union, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.artifacts.tables import Artifact
from app.auth.tables import DEFAULT_PROJECT, ApiKey, Project
from app.datasets.tables import Dataset
from app.db import db_now
from app.errors import Conflict, InvalidParams, NotFound
from app.http.paging import PageQuery, paginate
from app.ids import new_id
from app.jobs.tables import Job, StepResult
from app.models.tables import Model

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")  # each implies those before it

TOUCH_SECONDS = 60.0  # `last_used_at` is no finer than this: reads should not become writes


@dataclass(frozen=True)
class Principal:
    """The key behind a request: its project, its id, its scopes."""

    project_id: str
    key_id: str
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        """Whether a scope is held, by name or by one that implies it."""
        return any(held in self.scopes for held in SCOPES[SCOPES.index(scope) :])


def create_key(
    session: Session, project_id: str, name: str, scopes: list[Scope], expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """A new key and its secret text `brn_<id>_<secret>`, which is shown once and kept nowhere.

    Raises:
        NotFound: there is no such project.
        InvalidParams: no scope, an unknown one, or an end that has passed.
    """
    if session.get(Project, project_id) is None:
        raise NotFound(f"there is no project {project_id}", param="project")
    if not scopes or not set(scopes) <= set(SCOPES):
        raise InvalidParams(f"scopes are one or more of {', '.join(SCOPES)}", param="scopes")
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise InvalidParams("the end of the key has passed already", param="expires_at")
    key_id, secret = new_id("key"), secrets.token_urlsafe(32)
    key = ApiKey(
        id=key_id,
        project_id=project_id,
        name=name,
        secret_sha256=_digest(secret),
        scopes=[scope for scope in SCOPES if scope in scopes],
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    return key, f"brn_{key_id.removeprefix('key_')}_{secret}"


def authenticate(session: Session, token: str) -> tuple[Principal, bool] | None:
    """Who holds this key, and whether its `last_used_at` is due; None where the key opens nothing."""
    mark, _, rest = token.partition("_")
    key_part, _, secret = rest.partition("_")
    if mark != "brn" or not key_part or not secret or not token.isascii():
        return None
    due = func.coalesce(ApiKey.last_used_at < db_now(-TOUCH_SECONDS), True)
    row = session.execute(
        select(ApiKey, due).where(
            ApiKey.id == f"key_{key_part}",
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > db_now()),
        )
    ).one_or_none()
    if row is None or not hmac.compare_digest(row[0].secret_sha256, _digest(secret)):
        return None
    key = row[0]
    return Principal(key.project_id, key.id, frozenset(key.scopes)), bool(row[1])


def touch_key(session: Session, key_id: str) -> None:
    """Remember that a key was used now."""
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=db_now()))


def list_keys(session: Session, project_id: str, page: PageQuery) -> tuple[list[ApiKey], str | None]:
    """A page of a project's keys, revoked ones included."""
    return paginate(session, select(ApiKey).where(ApiKey.project_id == project_id), ApiKey, page)


def revoke_key(session: Session, project_id: str, key_id: str) -> None:
    """Let a key open nothing from now on; again is no error.

    Raises:
        NotFound: the project has no such key.
    """
    known = session.scalar(select(ApiKey.id).where(ApiKey.id == key_id, ApiKey.project_id == project_id))
    if known is None:
        raise NotFound(f"there is no key {key_id}")
    session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.project_id == project_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=db_now())
    )


def create_project(session: Session, name: str) -> Project:
    """A new project.

    Raises:
        Conflict: the name is taken.
    """
    project = Project(id=new_id("prj"), name=name)
    try:
        with session.begin_nested():
            session.add(project)
    except IntegrityError as error:
        raise Conflict(f"there is a project called {name!r} already", param="name") from error
    return project


def ensure_default_project(session: Session) -> Project:
    """The project that everything belongs to until there are more; made where it is missing."""
    project = session.get(Project, DEFAULT_PROJECT)
    if project is None:
        project = Project(id=DEFAULT_PROJECT, name="default")
        session.add(project)
        session.flush()
    return project


def list_projects(session: Session, page: PageQuery) -> tuple[list[Project], str | None]:
    """A page of the installation's projects."""
    return paginate(session, select(Project), Project, page)


@dataclass(frozen=True)
class Usage:
    """What a project holds. `stored_bytes` counts a blob once, however many rows share it."""

    stored_bytes: int
    models: int
    datasets: int
    artifacts: int
    cached_steps: int
    jobs: dict[str, int]


def usage(session: Session, project_id: str) -> Usage:
    """Count what a project holds."""

    def count(table: type[Model] | type[Dataset] | type[Artifact] | type[StepResult]) -> int:
        query = select(func.count()).select_from(table).where(table.project_id == project_id)
        return session.scalar(query) or 0

    blobs = union(
        select(Model.upload_digest.label("digest"), Model.size_bytes).where(Model.project_id == project_id),
        select(Dataset.upload_digest, Dataset.size_bytes).where(Dataset.project_id == project_id),
        select(Artifact.digest, Artifact.size_bytes).where(Artifact.project_id == project_id),
        select(StepResult.digest, StepResult.size_bytes).where(StepResult.project_id == project_id),
    ).subquery()
    by_status = session.execute(
        select(Job.status, func.count()).where(Job.project_id == project_id).group_by(Job.status)
    )
    return Usage(
        stored_bytes=int(session.scalar(select(func.coalesce(func.sum(blobs.c.size_bytes), 0))) or 0),
        models=count(Model),
        datasets=count(Dataset),
        artifacts=count(Artifact),
        cached_steps=count(StepResult),
        jobs={row[0]: row[1] for row in by_status},
    )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
