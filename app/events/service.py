"""Writing and reading events."""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.events.tables import Event


def record(session: Session, project_id: str, subject_id: str, type_: str, data: dict[str, Any]) -> None:
    """Append an event. The caller has just written the subject's row, whose lock keeps the numbers in order."""
    session.flush()
    last = select(func.coalesce(func.max(Event.seq), 0)).where(Event.subject_id == subject_id)
    session.add(
        Event(
            subject_id=subject_id,
            seq=session.scalar(last) + 1,  # type: ignore[operator]
            project_id=project_id,
            type=type_,
            data=data,
        )
    )
    session.flush()


def since(session: Session, project_id: str, subject_id: str, seq: int, limit: int = 1000) -> list[Event]:
    """The events of a subject after `seq`, oldest first."""
    query = (
        select(Event)
        .where(Event.project_id == project_id, Event.subject_id == subject_id, Event.seq > seq)
        .order_by(Event.seq)
        .limit(limit)
    )
    return list(session.scalars(query))


def last_seqs(session: Session, subject_ids: list[str]) -> dict[str, int]:
    """The newest event number of each subject that has one. Takes ids whose project was checked before."""
    query = (
        select(Event.subject_id, func.max(Event.seq))
        .where(Event.subject_id.in_(subject_ids))
        .group_by(Event.subject_id)
    )
    return {row[0]: row[1] for row in session.execute(query)}
