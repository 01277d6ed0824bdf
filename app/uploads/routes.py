"""`/uploads`: files that arrive over several requests, in the manner of the IETF's resumable uploads and of tus."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response

from app.auth.principal import Reader, Writer
from app.auth.routing import SecuredRoute
from app.errors import UnsupportedMediaType
from app.http.idempotency import Created, IdempotencyDep
from app.http.paging import Page
from app.http.sessions import ReadSession, WriteSession
from app.uploads import service
from app.uploads.appending import append
from app.uploads.schemas import UploadAnswer, UploadQuery, UploadRequest

router = APIRouter(tags=["uploads"], route_class=SecuredRoute)

MEDIA_TYPES = ("application/partial-upload", "application/offset+octet-stream")  # the IETF's, and tus's
BYTES = {"schema": {"type": "string", "format": "binary"}}
PROGRESS: dict[str, Any] = {
    "Upload-Offset": {"description": "The bytes that are there.", "schema": {"type": "integer"}},
    "Upload-Length": {"description": "The size, where it is known.", "schema": {"type": "integer"}},
    "Upload-Complete": {"description": "`?1` once it is complete, else `?0`.", "schema": {"type": "string"}},
}


@router.post("/uploads", status_code=201, response_model=UploadAnswer)
def create_upload(
    body: UploadRequest, principal: Writer, session: WriteSession, idempotency: IdempotencyDep
) -> Response:
    """Announce a file; its bytes come with PATCH to the address in `Location`."""

    def create() -> Created:
        upload = service.create(session, principal.project_id, body)
        return Created(service.answer(upload, 0), f"/v1/uploads/{upload.id}")

    return idempotency.answer(session, principal.project_id, body, create)


@router.get("/uploads")
def list_uploads(
    query: Annotated[UploadQuery, Query()], principal: Reader, session: ReadSession
) -> Page[UploadAnswer]:
    """The project's uploads that are under way, or complete and not used yet, newest first."""
    rows, cursor = service.page_of(session, principal.project_id, query)
    return Page(items=[service.answer(row, service.offset_of(row)) for row in rows], next_cursor=cursor)


@router.head("/uploads/{upload_id}", include_in_schema=False)
@router.get("/uploads/{upload_id}", responses={200: {"headers": PROGRESS}})
def get_upload(upload_id: str, principal: Reader, session: ReadSession, response: Response) -> UploadAnswer:
    """How far an upload is; HEAD says it in header fields alone."""
    upload = service.find(session, principal.project_id, upload_id)
    answer = service.answer(upload, service.offset_of(upload))
    response.headers.update(service.headers(answer.offset_bytes, answer.size_bytes, complete=answer.complete))
    return answer


@router.patch(
    "/uploads/{upload_id}",
    status_code=204,
    response_class=Response,
    responses={204: {"headers": PROGRESS, "description": "How far the upload is now."}},
    openapi_extra={"requestBody": {"content": dict.fromkeys(MEDIA_TYPES, BYTES)}},
)
async def append_to_upload(
    upload_id: str,
    request: Request,
    principal: Writer,
    upload_offset: Annotated[
        int, Header(alias="Upload-Offset", ge=0, le=2**62, description="Where the body belongs.")
    ],
    upload_complete: Annotated[
        Literal["?0", "?1"] | None,
        Header(
            alias="Upload-Complete",
            description="Whether the upload ends with this body. Absent: it does where the announced size is reached.",
        ),
    ] = None,
) -> Response:
    """Add bytes. What arrived before a connection broke stays: ask with HEAD how much, and go on from there.

    409 where the offset is another (the answer's `Upload-Offset` has the right one), or another request is appending
    (`Retry-After`). 422 `upload_mismatch` where size or SHA-256 are not as announced: the upload is gone then.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise UnsupportedMediaType(
            f"this takes {MEDIA_TYPES[0]}, not {media_type or 'a body without Content-Type'}",
            param="Content-Type",
        )
    last = None if upload_complete is None else upload_complete == "?1"
    progress = await append(request, principal.project_id, upload_id, upload_offset, last)
    return Response(status_code=204, headers=progress)


@router.delete("/uploads/{upload_id}", status_code=204)
def delete_upload(upload_id: str, principal: Writer, session: WriteSession) -> None:
    """Forget an upload and what came of it."""
    service.remove(session, principal.project_id, upload_id)
