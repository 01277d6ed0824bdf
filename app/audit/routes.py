"""`/audit`."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.audit import service
from app.audit.schemas import AuditAnswer, AuditQuery
from app.auth.principal import Admin, project_asked_for
from app.auth.routing import SecuredRoute
from app.http.paging import Page
from app.http.sessions import ReadSession

router = APIRouter(tags=["administration"], route_class=SecuredRoute)


@router.get("/audit")
def list_audit(
    query: Annotated[AuditQuery, Query()], principal: Admin, session: ReadSession
) -> Page[AuditAnswer]:
    """Who changed what in the project, newest first."""
    project_id = project_asked_for(session, principal, query.project)
    rows, cursor = service.list_entries(session, project_id, query)
    return Page(items=[AuditAnswer.model_validate(row) for row in rows], next_cursor=cursor)
