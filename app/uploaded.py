"""What models and datasets share: rows over uploaded files that a worker inspects, `inspecting -> ready | rejected`."""

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from sqlalchemy import CursorResult, delete, or_, select, update
from sqlalchemy.orm import Session

from app.audit.service import record
from app.auth import quotas
from app.datasets.tables import Dataset
from app.db import db_now
from app.errors import Conflict, NotFound
from app.events import service as events
from app.events.tables import Event
from app.http.paging import PageQuery, paginate
from app.jobs.tables import Job
from app.models.tables import Model
from app.queue import send_inspect
from app.references import read_by_jobs, release

INSPECTING, READY, REJECTED = "inspecting", "ready", "rejected"
STATUS_EVENT = "status"

Uploaded = TypeVar("Uploaded", Model, Dataset)


def add(session: Session, row: Model | Dataset) -> None:
    """Store a new row, record it, and ring for its inspection once the transaction is committed.

    Raises:
        QuotaExceeded: with it, the project stores more than it may.
    """
    session.add(row)
    session.flush()
    quotas.check_storage(session, row.project_id, 0)
    said = {"name": row.name, "size_bytes": row.size_bytes}
    record(session, row.project_id, f"{_noun(type(row))}.created", row.id, **said)
    events.record(session, row.project_id, row.id, STATUS_EVENT, {"status": row.status})
    send_inspect(session, row.id)


def find(
    session: Session, table: type[Uploaded], project_id: str, id_: str, *, hold: bool = False
) -> Uploaded:
    """The project's row; held, it cannot be deleted before the transaction ends.

    Raises:
        NotFound: the project has none with this id.
    """
    query = select(table).where(table.id == id_, table.project_id == project_id)
    row = session.scalar(query.with_for_update(read=True, key_share=True) if hold else query)
    if row is None:
        raise NotFound(f"there is no {_noun(table)} {id_}")
    return row


def page_of(
    session: Session,
    table: type[Uploaded],
    project_id: str,
    page: PageQuery,
    *,
    status: str | None,
    name: str | None,
) -> tuple[list[Uploaded], str | None]:
    """A page of the project's rows, newest first, perhaps only those of a status or a name."""
    query = select(table).where(table.project_id == project_id)
    if status is not None:
        query = query.where(table.status == status)
    if name is not None:
        query = query.where(table.name == name)
    return paginate(session, query, table, page)


def remove(session: Session, table: type[Uploaded], project_id: str, id_: str) -> None:
    """Delete a row, its events, and those of its bytes that nothing else refers to.

    Raises:
        NotFound: the project has none with this id.
        Conflict: a job refers to it.
    """
    query = select(table).where(table.id == id_, table.project_id == project_id).with_for_update()
    row = session.scalar(query)
    if row is None:
        raise NotFound(f"there is no {_noun(table)} {id_}")
    jobs = select(Job.id).where(Job.project_id == project_id, read_by_jobs([id_])).limit(5)
    if users := list(session.scalars(jobs)):
        raise Conflict(
            f"the {_noun(table)} is used by {', '.join(users)}",
            hint="delete the jobs first; a job that is not finished has to be cancelled before",
        )
    record(session, project_id, f"{_noun(table)}.deleted", id_, name=row.name)
    session.delete(row)
    session.execute(delete(Event).where(Event.subject_id == id_, Event.project_id == project_id))
    release(session, blobs=[row.upload_digest], trees=[row.digest])


def begin_inspection(
    session: Session, table: type[Uploaded], id_: str, lease_seconds: float
) -> Uploaded | None:
    """Claim an inspection: one statement, so that one of many wins. None: it is done, or somebody has it.

    The row's `inspect_attempts` is the attempt that `finish_inspection` must name.
    """
    claimed = session.scalars(
        update(table)
        .where(
            table.id == id_,
            table.status == INSPECTING,
            or_(table.lease_expires_at.is_(None), table.lease_expires_at <= db_now()),
        )
        .values(lease_expires_at=db_now(lease_seconds), inspect_attempts=table.inspect_attempts + 1)
        .returning(table),
        execution_options={"synchronize_session": False, "populate_existing": True},
    ).one_or_none()
    if claimed is not None:
        data = {"status": INSPECTING, "attempt": claimed.inspect_attempts}
        events.record(session, claimed.project_id, id_, STATUS_EVENT, data)
    return claimed


def finish_inspection(
    session: Session,
    table: type[Uploaded],
    id_: str,
    attempt: int,
    *,
    ready: Mapping[str, Any] | None = None,
    problem: Mapping[str, Any] | None = None,
) -> bool:
    """End an inspection with what was found (columns of the row) or with the problem that rejects the upload.

    False: the attempt is not the current one any more, and nothing was written.
    """
    if (ready is None) == (problem is None):
        raise ValueError("an inspection ends either ready or with a problem")
    status = READY if problem is None else REJECTED
    values = dict(ready) if ready is not None else {"problem": dict(problem or {})}
    result = session.execute(
        update(table)
        .where(table.id == id_, table.status == INSPECTING, table.inspect_attempts == attempt)
        .values(status=status, lease_expires_at=None, **values),
        execution_options={"synchronize_session": False},
    )
    if cast(CursorResult[Any], result).rowcount != 1:
        return False
    project_id = session.scalars(select(table.project_id).where(table.id == id_)).one()
    data = {"status": status, **({"problem": dict(problem)} if problem is not None else {})}
    events.record(session, project_id, id_, STATUS_EVENT, data)
    return True


def _noun(table: type[Model] | type[Dataset]) -> str:
    return table.__name__.lower()
