"""A worker's hold on the inspection of an upload, between `uploaded.begin_inspection` and `finish_inspection`."""

from datetime import datetime

from sqlalchemy import case, func, or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from app.datasets.tables import Dataset
from app.db import db_now
from app.models.tables import Model
from app.queue import send_inspect
from app.uploaded import INSPECTING

Table = type[Model] | type[Dataset]


def renew(session: Session, table: Table, id_: str, attempt: int, lease_seconds: float) -> bool:
    """Hold on for longer; False where the hold is lost."""
    statement = (
        update(table)
        .where(*_held(table, id_, attempt))
        .values(lease_expires_at=db_now(lease_seconds))
        .returning(table.id)
    )
    return session.scalar(statement, execution_options={"synchronize_session": False}) is not None


def holds(session: Session, table: Table, id_: str, attempt: int) -> bool:
    """Whether the attempt still holds the inspection."""
    return session.scalar(select(table.id).where(*_held(table, id_, attempt))) is not None


def give_back(session: Session, table: Table, id_: str, attempt: int) -> bool:
    """Let another attempt inspect; False where the hold is lost."""
    statement = (
        update(table)
        .where(*_held(table, id_, attempt))
        .values(lease_expires_at=None, sent_at=db_now())
        .returning(table.id)
    )
    given = session.scalar(statement, execution_options={"synchronize_session": False}) is not None
    if given:
        send_inspect(session, id_)
    return given


def abandon(session: Session, table: Table) -> None:
    """Let every inspection begin anew. Only where no worker is left that may be at one."""
    statement = (
        update(table)
        .where(table.status == INSPECTING)
        .values(lease_expires_at=None, sent_at=db_now())
        .returning(table.id)
    )
    for id_ in session.scalars(statement, execution_options={"synchronize_session": False}):
        send_inspect(session, id_)


def waiting(session: Session, table: Table) -> int:
    """How many uploads wait for an inspection that nobody does."""
    query = select(func.count()).where(table.status == INSPECTING, _free(table))
    return session.scalar(query) or 0


def load(session: Session, table: Table) -> tuple[int, int, datetime | None]:
    """How many uploads wait for an inspection, how many are inspected, and when the oldest that waits came."""
    free = _free(table)
    query = select(
        func.count(case((free, 1))), func.count(case((~free, 1))), func.min(case((free, table.created_at)))
    ).where(table.status == INSPECTING)
    waiting, running, first = session.execute(query).one()
    return waiting, running, first


def stale(session: Session, table: Table, resend_seconds: float) -> list[str]:
    """Uploads whose message must be sent again: nobody inspects them. Marked as sent by the same statement."""
    statement = (
        update(table)
        .where(
            table.status == INSPECTING,
            _free(table),
            table.sent_at < db_now(-resend_seconds),
        )
        .values(sent_at=db_now())
        .returning(table.id)
    )
    return list(session.scalars(statement, execution_options={"synchronize_session": False}))


def _held(table: Table, id_: str, attempt: int) -> tuple[ColumnElement[bool], ...]:
    return table.id == id_, table.status == INSPECTING, table.inspect_attempts == attempt


def _free(table: Table) -> ColumnElement[bool]:
    return or_(table.lease_expires_at.is_(None), table.lease_expires_at < db_now())
