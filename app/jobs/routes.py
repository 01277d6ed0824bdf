"""`/jobs`, and `/models/{id}/validate`."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from app.artifacts import service as artifacts
from app.artifacts.schemas import ArtifactAnswer, ArtifactQuery
from app.auth.principal import Reader, Writer
from app.auth.routing import SecuredRoute
from app.db import transaction
from app.http.idempotency import Created, IdempotencyDep
from app.http.paging import Page, PageQuery
from app.http.sessions import ReadSession, WriteSession
from app.http.waiting import WaitQuery, wait_until
from app.jobs import service
from app.jobs.rebuild import rebuild
from app.jobs.schemas import EventsQuery, JobAnswer, JobQuery, JobRequest, RebuildRequest, ValidationAnswer
from app.jobs.stream import read, stream
from app.jobs.tables import Job
from app.jobs.validation import validate

router = APIRouter(tags=["jobs"], route_class=SecuredRoute)


@router.post("/jobs", status_code=202, response_model=JobAnswer)
def submit_job(
    body: JobRequest, principal: Writer, session: WriteSession, idempotency: IdempotencyDep
) -> Response:
    """Queue a job. Everything that can be known beforehand is checked now."""

    def create() -> Created:
        return _created(session, service.submit(session, principal.project_id, body))

    return idempotency.answer(session, principal.project_id, body, create)


@router.get("/jobs")
def list_jobs(
    query: Annotated[JobQuery, Query()], principal: Reader, session: ReadSession
) -> Page[JobAnswer]:
    """The project's jobs, newest first, children too."""
    rows, cursor = service.list_jobs(session, principal.project_id, query)
    return Page(items=service.answers(session, principal.project_id, rows), next_cursor=cursor)


@router.get("/jobs/{job_id}")
async def get_job(job_id: str, query: Annotated[WaitQuery, Query()], principal: Reader) -> JobAnswer:
    """A job. `wait` holds the answer until the job changes or the time is over; a finished one is answered at once."""
    before: list[JobAnswer] = []

    def changed(job: JobAnswer) -> bool:
        before.append(job)
        return job.finished or job != before[0]

    return await wait_until(partial(_read, principal.project_id, job_id), changed, job_id, query.wait)


@router.get(
    "/jobs/{job_id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Events, until the job has ended."},
        204: {"description": "The job has ended, and the client has seen all its events."},
    },
)
async def get_events(
    job_id: str,
    query: Annotated[EventsQuery, Query()],
    principal: Reader,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**31 - 1)] = None,
) -> Response:
    """The job's events from its creation on. An event's id is its number; `Last-Event-ID` resumes behind it."""
    seen = last_event_id if last_event_id is not None else query.last_event_id
    piece = await run_in_threadpool(read, principal.project_id, job_id, seen or 0)
    if seen is not None and piece.over and not piece.wire:
        return Response(status_code=204)  # tells an EventSource not to connect again
    return StreamingResponse(
        stream(principal.project_id, job_id, piece),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


@router.get("/jobs/{job_id}/logs", response_class=PlainTextResponse)
def get_logs(job_id: str, principal: Reader, session: ReadSession) -> str:
    """What the job's processes printed; the middle of a long log is cut."""
    return service.log_text(session, principal.project_id, job_id)


@router.get("/jobs/{job_id}/artifacts")
def list_job_artifacts(
    job_id: str, page: Annotated[PageQuery, Query()], principal: Reader, session: ReadSession
) -> Page[ArtifactAnswer]:
    """What the job made."""
    service.get_job(session, principal.project_id, job_id)
    query = ArtifactQuery(job=job_id, **page.model_dump())
    rows, cursor = artifacts.list_artifacts(session, principal.project_id, query)
    return Page(items=artifacts.answers(session, principal.project_id, rows), next_cursor=cursor)


@router.post("/jobs/{job_id}/cancel", status_code=202)
def cancel_job(job_id: str, principal: Writer, session: WriteSession) -> JobAnswer:
    """Cancel the job: one that waits is `cancelled` at once, one that runs is `cancelling` until its worker stopped it."""
    job = service.cancel(session, principal.project_id, job_id)
    return service.answers(session, principal.project_id, [job])[0]


@router.post("/jobs/{job_id}/retry", status_code=202, response_model=JobAnswer)
def retry_job(job_id: str, principal: Writer, session: WriteSession, idempotency: IdempotencyDep) -> Response:
    """A new job with the request of a finished one. Steps that it stored are taken from the cache."""

    def create() -> Created:
        return _created(session, service.retry(session, principal.project_id, job_id))

    return idempotency.answer(session, principal.project_id, None, create)


@router.delete("/jobs/{job_id}", status_code=204)
def delete_job(job_id: str, principal: Writer, session: WriteSession) -> None:
    """Delete a finished job and what it made; 409 while it is not finished or another job starts from its artifacts."""
    service.delete_job(session, principal.project_id, job_id)


@router.post("/artifacts/{artifact_id}/rebuild", status_code=202, response_model=JobAnswer)
def rebuild_artifact(
    artifact_id: str,
    body: RebuildRequest,
    principal: Writer,
    session: WriteSession,
    idempotency: IdempotencyDep,
) -> Response:
    """Queue a job that builds the engine anew, for another target or another machine, from the stored model after its passes."""

    def create() -> Created:
        return _created(session, rebuild(session, principal.project_id, artifact_id, body))

    return idempotency.answer(session, principal.project_id, body, create)


@router.post("/models/{model_id}/validate")
def validate_job(
    model_id: str, body: JobRequest, principal: Reader, session: ReadSession
) -> ValidationAnswer:
    """What a job would do with the model, per step and target. Queues nothing."""
    return validate(session, principal.project_id, model_id, body)


def _created(session: WriteSession, job: Job) -> Created:
    answer = service.answers(session, job.project_id, [job])[0]
    return Created(answer, f"/v1/jobs/{job.id}", 202)


def _read(project_id: str, job_id: str) -> JobAnswer:
    with transaction(readonly=True) as session:
        return service.answers(session, project_id, [service.get_job(session, project_id, job_id)])[0]
