"""`/datasets`."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from app import uploaded
from app.auth.principal import Reader, Writer
from app.auth.routing import SecuredRoute
from app.datasets import service
from app.datasets.schemas import DatasetAnswer, DatasetFields, DatasetQuery
from app.db import transaction
from app.http.idempotency import Created, IdempotencyDep
from app.http.paging import Page
from app.http.sessions import ReadSession, WriteSession
from app.http.waiting import WaitQuery, wait_until
from app.uploads.source import Source, file_body, source_of

router = APIRouter(tags=["datasets"], route_class=SecuredRoute)


@router.post(
    "/datasets", status_code=201, response_model=DatasetAnswer, openapi_extra=file_body(DatasetFields)
)
def upload_dataset(
    principal: Writer,
    source: Annotated[Source[DatasetFields], Depends(source_of(DatasetFields))],
    session: WriteSession,
    idempotency: IdempotencyDep,
) -> Response:
    """Upload a dataset: an `.npz` whose arrays have the sample axis first, a `.tar` in WebDataset form, or a Parquet file. A
    worker inspects it."""

    def create() -> Created:
        blob, filename = source.take(session, principal.project_id)
        dataset = service.create_dataset(session, principal.project_id, blob, filename, source.fields)
        return Created(DatasetAnswer.model_validate(dataset), f"/v1/datasets/{dataset.id}")

    return idempotency.answer(session, principal.project_id, source.fingerprint(), create)


@router.get("/datasets")
def list_datasets(
    query: Annotated[DatasetQuery, Query()], principal: Reader, session: ReadSession
) -> Page[DatasetAnswer]:
    """The project's datasets, newest first."""
    rows, cursor = service.list_datasets(session, principal.project_id, query)
    return Page(items=[DatasetAnswer.model_validate(row) for row in rows], next_cursor=cursor)


@router.get("/datasets/{dataset_id}")
async def get_dataset(
    dataset_id: str, query: Annotated[WaitQuery, Query()], principal: Reader
) -> DatasetAnswer:
    """A dataset. `wait` holds the answer until it is inspected or the time is over."""
    read = partial(_read, principal.project_id, dataset_id)
    return await wait_until(
        read, lambda dataset: dataset.status != uploaded.INSPECTING, dataset_id, query.wait
    )


@router.delete("/datasets/{dataset_id}", status_code=204)
def delete_dataset(dataset_id: str, principal: Writer, session: WriteSession) -> None:
    """Delete a dataset; 409 while a job refers to it."""
    service.delete_dataset(session, principal.project_id, dataset_id)


def _read(project_id: str, dataset_id: str) -> DatasetAnswer:
    with transaction(readonly=True) as session:
        return DatasetAnswer.model_validate(service.get_dataset(session, project_id, dataset_id))
