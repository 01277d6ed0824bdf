"""`/keys`, `/projects`, `/usage`."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.auth import service
from app.auth.principal import (
    Admin,
    InstallationAdmin,
    Reader,
    project_asked_for,
    require_installation_admin,
)
from app.auth.routing import SecuredRoute
from app.auth.schemas import (
    KeyAnswer,
    KeyRequest,
    NewKeyAnswer,
    ProjectAnswer,
    ProjectChange,
    ProjectRequest,
    UsageAnswer,
    UsageQuery,
)
from app.auth.usage import usage
from app.http.idempotency import Created, IdempotencyDep
from app.http.paging import Page, PageQuery
from app.http.sessions import ReadSession, WriteSession

router = APIRouter(tags=["administration"], route_class=SecuredRoute)


@router.post("/keys", status_code=201)
def create_key(body: KeyRequest, principal: Admin, session: WriteSession, response: Response) -> NewKeyAnswer:
    """Make a key. Its secret is shown this once, so `Idempotency-Key` has no effect here: secrets are not stored."""
    project_id = body.project or principal.project_id
    if project_id != principal.project_id:
        require_installation_admin(principal)
    key, secret = service.create_key(session, project_id, body.name, body.scopes, body.expires_at)
    response.headers["Location"] = f"/v1/keys/{key.id}"
    response.headers["Cache-Control"] = "no-store"
    return NewKeyAnswer(**KeyAnswer.model_validate(key).model_dump(), secret=secret)


@router.get("/keys")
def list_keys(page: Annotated[PageQuery, Query()], principal: Admin, session: ReadSession) -> Page[KeyAnswer]:
    """The project's keys, newest first, without their secrets."""
    rows, cursor = service.list_keys(session, principal.project_id, page)
    return Page(items=[KeyAnswer.model_validate(row) for row in rows], next_cursor=cursor)


@router.get("/keys/{key_id}")
def get_key(key_id: str, principal: Admin, session: ReadSession) -> KeyAnswer:
    """A key of the project, without its secret."""
    return KeyAnswer.model_validate(service.get_key(session, principal.project_id, key_id))


@router.delete("/keys/{key_id}", status_code=204)
def revoke_key(key_id: str, principal: Admin, session: WriteSession) -> None:
    """Revoke a key of the project: it opens nothing from now on."""
    service.revoke_key(session, principal.project_id, key_id)


@router.post("/projects", status_code=201, response_model=ProjectAnswer)
def create_project(
    body: ProjectRequest, principal: InstallationAdmin, session: WriteSession, idempotency: IdempotencyDep
) -> Response:
    """Make a project. Needs an admin key of the default project."""

    def create() -> Created:
        project = ProjectAnswer.model_validate(service.create_project(session, **body.model_dump()))
        return Created(project, f"/v1/projects/{project.id}")

    return idempotency.answer(session, principal.project_id, body, create)


@router.get("/projects")
def list_projects(
    page: Annotated[PageQuery, Query()], principal: InstallationAdmin, session: ReadSession
) -> Page[ProjectAnswer]:
    """The installation's projects, newest first. Needs an admin key of the default project."""
    rows, cursor = service.list_projects(session, page)
    return Page(items=[ProjectAnswer.model_validate(row) for row in rows], next_cursor=cursor)


@router.get("/projects/{project_id}")
def get_project(project_id: str, principal: InstallationAdmin, session: ReadSession) -> ProjectAnswer:
    """A project and its limits. Needs an admin key of the default project."""
    return ProjectAnswer.model_validate(service.get_project(session, project_id))


@router.patch("/projects/{project_id}")
def change_project(
    project_id: str, body: ProjectChange, principal: InstallationAdmin, session: WriteSession
) -> ProjectAnswer:
    """Change a project's name or limits; what the body does not name stays. Needs an admin key of the default project."""
    changes = body.model_dump(exclude_unset=True)
    return ProjectAnswer.model_validate(service.update_project(session, project_id, changes))


@router.delete("/projects/{project_id}", status_code=204)
def delete_project(project_id: str, principal: InstallationAdmin, session: WriteSession) -> None:
    """Delete an empty project with its keys; 409 says what is in the way. Needs an admin key of the default project."""
    service.delete_project(session, project_id)


@router.get("/usage")
def get_usage(query: Annotated[UsageQuery, Query()], principal: Reader, session: ReadSession) -> UsageAnswer:
    """What the project holds now beside what it may, and what it had computed in a span of time."""
    project_id = project_asked_for(session, principal, query.project)
    return UsageAnswer.model_validate(usage(session, project_id, query.since, query.until))
