"""`/models`."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from app import uploaded
from app.auth.principal import Reader, Writer
from app.auth.routing import SecuredRoute
from app.db import transaction
from app.http.idempotency import Created, IdempotencyDep
from app.http.paging import Page
from app.http.sessions import ReadSession, WriteSession
from app.http.waiting import WaitQuery, wait_until
from app.models import service
from app.models.schemas import ModelAnswer, ModelFields, ModelQuery, StructureAnswer
from app.uploads.source import Source, file_body, source_of

router = APIRouter(tags=["models"], route_class=SecuredRoute)


@router.post("/models", status_code=201, response_model=ModelAnswer, openapi_extra=file_body(ModelFields))
def upload_model(
    principal: Writer,
    source: Annotated[Source[ModelFields], Depends(source_of(ModelFields))],
    session: WriteSession,
    idempotency: IdempotencyDep,
) -> Response:
    """Upload a model: one file, or a `.zip` or `.tar` of a model with external weights. A worker inspects it."""

    def create() -> Created:
        blob, filename = source.take(session, principal.project_id)
        model = service.create_model(session, principal.project_id, blob, filename, source.fields)
        return Created(ModelAnswer.model_validate(model), f"/v1/models/{model.id}")

    return idempotency.answer(session, principal.project_id, source.fingerprint(), create)


@router.get("/models")
def list_models(
    query: Annotated[ModelQuery, Query()], principal: Reader, session: ReadSession
) -> Page[ModelAnswer]:
    """The project's models, newest first."""
    rows, cursor = service.list_models(session, principal.project_id, query)
    return Page(items=[ModelAnswer.model_validate(row) for row in rows], next_cursor=cursor)


@router.get("/models/{model_id}")
async def get_model(model_id: str, query: Annotated[WaitQuery, Query()], principal: Reader) -> ModelAnswer:
    """A model. `wait` holds the answer until it is inspected or the time is over."""
    read = partial(_read, principal.project_id, model_id)
    return await wait_until(read, lambda model: model.status != uploaded.INSPECTING, model_id, query.wait)


@router.get("/models/{model_id}/structure")
def get_structure(model_id: str, principal: Reader, session: ReadSession) -> StructureAnswer:
    """The layers of an inspected model: parameters, FLOPs, outputs, and what surgery could save; 409 before the inspection."""
    return StructureAnswer.model_validate(service.get_structure(session, principal.project_id, model_id))


@router.delete("/models/{model_id}", status_code=204)
def delete_model(model_id: str, principal: Writer, session: WriteSession) -> None:
    """Delete a model; 409 while a job refers to it."""
    service.delete_model(session, principal.project_id, model_id)


def _read(project_id: str, model_id: str) -> ModelAnswer:
    with transaction(readonly=True) as session:
        return ModelAnswer.model_validate(service.get_model(session, project_id, model_id))
