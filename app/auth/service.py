"""Keys and projects: made, listed, changed, revoked, recognized."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.audit.service import record
from app.audit.tables import AuditEntry
from app.auth.limits import effective
from app.auth.tables import DEFAULT_PROJECT, ApiKey, Project
from app.config import get_settings
from app.db import db_now
from app.errors import Conflict, InvalidParams, NotFound
from app.http.paging import PageQuery, paginate
from app.http.schemas import rfc3339
from app.ids import new_id
from app.tables import metadata

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "write", "admin")  # each implies those before it

# What does not keep a project from being deleted. Its audit log is kept, with the default project.
GO_WITH_THEIR_PROJECT = frozenset({"api_keys", "audit_entries", "consumption", "events", "idempotency_keys"})

TOUCH_SECONDS = 60.0  # `last_used_at` is no finer than this: reads should not become writes


@dataclass(frozen=True)
class Principal:
    """The key behind a request: its project, its id, its scopes, its rate (None: no limit)."""

    project_id: str
    key_id: str
    scopes: frozenset[str]
    requests_per_minute: int | None = None

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
    get_project(session, project_id)
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
    said = {"name": name, "scopes": key.scopes, "expires_at": expires_at and rfc3339(expires_at)}
    record(session, project_id, "key.created", key_id, **said)
    return key, f"brn_{key_id.removeprefix('key_')}_{secret}"


def authenticate(session: Session, token: str) -> tuple[Principal, bool] | None:
    """Who holds this key, and whether its `last_used_at` is due; None where the key opens nothing."""
    mark, _, rest = token.partition("_")
    key_part, _, secret = rest.partition("_")
    if mark != "brn" or not key_part or not secret or not token.isascii():
        return None
    due = func.coalesce(ApiKey.last_used_at < db_now(-TOUCH_SECONDS), True)
    row = session.execute(
        select(ApiKey, due, Project.max_requests_per_minute)
        .join(Project, Project.id == ApiKey.project_id)
        .where(
            ApiKey.id == f"key_{key_part}",
            ApiKey.revoked_at.is_(None),
            or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > db_now()),
        )
    ).one_or_none()
    if row is None or not hmac.compare_digest(row[0].secret_sha256, _digest(secret)):
        return None
    key = row[0]
    per_minute = effective(row[2], get_settings().key_max_requests_per_minute)
    return Principal(key.project_id, key.id, frozenset(key.scopes), per_minute), bool(row[1])


def touch_key(session: Session, key_id: str) -> None:
    """Remember that a key was used now."""
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=db_now()))


def list_keys(session: Session, project_id: str, page: PageQuery) -> tuple[list[ApiKey], str | None]:
    """A page of a project's keys, revoked ones included."""
    return paginate(session, select(ApiKey).where(ApiKey.project_id == project_id), ApiKey, page)


def get_key(session: Session, project_id: str, key_id: str) -> ApiKey:
    """A key of the project.

    Raises:
        NotFound: the project has none with this id.
    """
    key = session.scalar(select(ApiKey).where(ApiKey.id == key_id, ApiKey.project_id == project_id))
    if key is None:
        raise NotFound(f"there is no key {key_id}")
    return key


def revoke_key(session: Session, project_id: str, key_id: str) -> None:
    """Let a key open nothing from now on; again is no error.

    Raises:
        NotFound: the project has none with this id.
    """
    key = get_key(session, project_id, key_id)
    revoked = session.scalar(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.project_id == project_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=db_now())
        .returning(ApiKey.id)
    )
    if revoked is not None:
        record(session, project_id, "key.revoked", key_id, name=key.name)


def create_project(session: Session, name: str, **limits: int | None) -> Project:
    """A new project; `limits` by the names of its columns, absent ones are the installation's.

    Raises:
        Conflict: the name is taken.
    """
    project = Project(id=new_id("prj"), name=name, **limits)
    try:
        with session.begin_nested():
            session.add(project)
    except IntegrityError as error:
        raise _name_taken(name) from error
    record(session, project.id, "project.created", project.id, name=name, **limits)
    return project


def get_project(session: Session, project_id: str, *, hold: bool = False) -> Project:
    """A project; held, nothing can be added to it before the transaction ends.

    Raises:
        NotFound: there is none with this id.
    """
    query = select(Project).where(Project.id == project_id)
    project = session.scalar(query.with_for_update() if hold else query)
    if project is None:
        raise NotFound(f"there is no project {project_id}", param="project")
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


def update_project(session: Session, project_id: str, changes: Mapping[str, Any]) -> Project:
    """Change a project's name or limits; `changes` maps columns to values, None: the installation's limit.

    Raises:
        NotFound: there is no such project.
        Conflict: the name is taken.
    """
    project = get_project(session, project_id)
    try:
        with session.begin_nested():
            for name, value in changes.items():
                setattr(project, name, value)
    except IntegrityError as error:
        raise _name_taken(changes["name"]) from error
    if changes:
        record(session, project_id, "project.changed", project_id, **changes)
    return project


def delete_project(session: Session, project_id: str) -> None:
    """Delete an empty project with its keys; its audit log goes to the default project's.

    Raises:
        NotFound: there is no such project.
        Conflict: it holds something, or is the default project.
    """
    project = get_project(session, project_id, hold=True)
    if project_id == DEFAULT_PROJECT:
        raise Conflict("the default project cannot be deleted")
    held = {}
    for table in metadata.sorted_tables:
        if "project_id" in table.columns and table.name not in GO_WITH_THEIR_PROJECT:
            rows = select(func.count()).select_from(table).where(table.c.project_id == project_id)
            held[table.name.replace("_", " ")] = session.scalar(rows) or 0
    if in_the_way := ", ".join(f"{count} {name}" for name, count in held.items() if count):
        raise Conflict(
            f"the project {project_id} is not empty: {in_the_way}",
            hint="delete its jobs, artifacts, models and datasets, or revoke its keys and leave it",
        )
    session.execute(
        update(AuditEntry).where(AuditEntry.project_id == project_id).values(project_id=DEFAULT_PROJECT)
    )
    for name in GO_WITH_THEIR_PROJECT - {AuditEntry.__tablename__}:
        table = metadata.tables[name]
        session.execute(delete(table).where(table.c.project_id == project_id))
    record(session, DEFAULT_PROJECT, "project.deleted", project_id, name=project.name)
    session.delete(project)


def _name_taken(name: str) -> Conflict:
    return Conflict(f"there is a project called {name!r} already", param="name")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
