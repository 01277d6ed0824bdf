"""The audit log: written in the transaction of the change itself, so that both exist or neither does."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.audit.actor import REQUEST_STATE
from app.audit.schemas import AuditQuery
from app.audit.tables import AuditEntry
from app.http.paging import paginate
from app.ids import new_id


def record(session: Session, project_id: str, action: str, subject_id: str | None, **detail: Any) -> None:
    """Write down a change, in its own transaction; which key made it, in which request, is known here.

    Args:
        project_id: whose thing was changed.
        action: what was done, `noun.past_tense` such as `model.created`, at most 60 characters.
        detail: small JSON values that say more. Never a secret.
    """
    state = REQUEST_STATE.get() or {}
    principal = state.get("principal")
    session.add(
        AuditEntry(
            id=new_id("aud"),
            project_id=project_id,
            key_id=principal.key_id if principal is not None else None,
            action=action,
            subject_id=subject_id,
            request_id=state.get("request_id"),
            detail=detail,
        )
    )


def list_entries(session: Session, project_id: str, query: AuditQuery) -> tuple[list[AuditEntry], str | None]:
    """A page of the project's entries, newest first, and the cursor of the next."""
    statement = select(AuditEntry).where(AuditEntry.project_id == project_id)
    equal = {
        AuditEntry.action: query.action,
        AuditEntry.subject_id: query.subject,
        AuditEntry.key_id: query.key,
    }
    for column, value in equal.items():
        if value is not None:
            statement = statement.where(column == value)
    return paginate(session, statement, AuditEntry, query)
