"""`/artifacts`."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.artifacts import content, service
from app.artifacts.schemas import ArtifactAnswer, ArtifactQuery, ValidityAnswer
from app.artifacts.validity import validity_of
from app.auth.principal import Reader, Writer
from app.auth.routing import SecuredRoute
from app.config import get_settings
from app.http.paging import Page
from app.http.sessions import ReadSession, WriteSession
from app.storage import get_storage

router = APIRouter(tags=["artifacts"], route_class=SecuredRoute)

BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.get("/artifacts")
def list_artifacts(
    query: Annotated[ArtifactQuery, Query()], principal: Reader, session: ReadSession
) -> Page[ArtifactAnswer]:
    """The project's artifacts, newest first."""
    rows, cursor = service.list_artifacts(session, principal.project_id, query)
    return Page(items=service.answers(session, principal.project_id, rows), next_cursor=cursor)


@router.get("/artifacts/{artifact_id}")
def get_artifact(artifact_id: str, principal: Reader, session: ReadSession) -> ArtifactAnswer:
    """An artifact, with its manifest and what it was made from."""
    artifact = service.get_artifact(session, principal.project_id, artifact_id)
    return service.answers(session, principal.project_id, [artifact])[0]


@router.get("/artifacts/{artifact_id}/validity")
def get_validity(artifact_id: str, principal: Reader, session: ReadSession) -> ValidityAnswer:
    """What an engine needs of a machine, and which of the live workers have it; `burnish check` says it of another machine."""
    artifact = service.get_artifact(session, principal.project_id, artifact_id)
    return validity_of(session, artifact, get_settings().worker_seen_seconds)


@router.delete("/artifacts/{artifact_id}", status_code=204)
def delete_artifact(artifact_id: str, principal: Writer, session: WriteSession) -> None:
    """Delete an artifact; 409 where a job starts from it."""
    service.delete_artifact(session, principal.project_id, artifact_id)


@router.head("/artifacts/{artifact_id}/content", include_in_schema=False)
@router.get(
    "/artifacts/{artifact_id}/content",
    response_class=Response,
    responses={
        200: {"content": BYTES, "description": "The file."},
        206: {"content": BYTES, "description": "The range that was asked for."},
        304: {"description": "The client has it already (`If-None-Match`)."},
        307: {
            "description": "Where the service says so (`BURNISH_STORAGE_PRESIGNED_DOWNLOADS`): the file is at `Location`, for "
            "15 minutes; do not send the key there."
        },
    },
)
def get_content(artifact_id: str, request: Request, principal: Reader, session: ReadSession) -> Response:
    """The file, whole or a `Range` of it. `ETag` and `Repr-Digest` carry its SHA-256."""
    artifact = service.get_artifact(session, principal.project_id, artifact_id)
    return content.answer(
        get_storage(),
        artifact.digest,
        artifact.size_bytes,
        artifact.media_type,
        artifact.filename,
        request.method,
        request.headers,
    )
