"""Jobs: submitted, found, cancelled, tried again, deleted. What workers do to them is in `lease.py`."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.artifacts import service as artifacts
from app.artifacts.tables import Artifact
from app.audit.service import record
from app.auth import quotas
from app.config import get_settings
from app.db import db_now
from app.errors import Cancelled, Conflict, NotFound
from app.events.tables import Event
from app.http.paging import paginate
from app.ids import new_id
from app.jobs import changes
from app.jobs.fairness import NO_QUEUE
from app.jobs.planning import Grounds, Planned, ground, plan_target, widest
from app.jobs.routing import route
from app.jobs.schemas import JobAnswer, JobQuery, JobRequest, StepAnswer, read_request
from app.jobs.status import JobStatus, finished
from app.jobs.tables import Job, JobLog, JobStep
from app.observability import tracing
from app.queue import send_job

CHILDREN_STAGE = "children"


def submit(session: Session, project_id: str, request: JobRequest, retry_of: str | None = None) -> Job:
    """Queue a job, or a parent with a child for each target, once everything that can be known now speaks for it.

    Raises:
        NotFound, Conflict, InvalidModel, InvalidDataset, InvalidParams, SignatureMismatch, UnknownPass,
        IncompatibleRecipe, NoWorker: see `planning`.
        QuotaExceeded: more jobs of the project would wait than may; each target is one.
    """
    grounds = ground(session, project_id, request)
    planned = [plan_target(grounds, index) for index in range(len(grounds.request.targets))]
    options = grounds.request.options
    queues = [
        route(session, widest(grounds.request, each.target), each.recipe, options, index)
        for index, each in enumerate(planned)
    ]
    quotas.check_queued(session, project_id, len(planned))
    job = _submit(session, project_id, grounds, planned, queues, retry_of)
    said = {"kind": job.kind, "subject": job.subject, "targets": [each.target.runtime for each in planned]}
    record(session, project_id, "job.created", job.id, **said, **({"retry_of": retry_of} if retry_of else {}))
    return job


def _submit(
    session: Session,
    project_id: str,
    grounds: Grounds,
    planned: list[Planned],
    queues: list[str],
    retry_of: str | None,
) -> Job:
    if len(planned) == 1:
        return _queue(session, project_id, grounds, planned[0], queues[0], retry_of=retry_of)
    parent = _add(
        session,
        project_id,
        grounds,
        {"targets": [each.target.model_dump() for each in planned]},
        status=JobStatus.RUNNING,
        started_at=db_now(),
        stage=CHILDREN_STAGE,
        progress={"done": 0, "total": len(planned), "message": "targets"},
        queue=NO_QUEUE,
        retry_of=retry_of,
    )
    for each, queue in zip(planned, queues, strict=True):
        _queue(session, project_id, grounds, each, queue, parent_id=parent.id)
    return parent


def get_job(session: Session, project_id: str, job_id: str) -> Job:
    """A job of the project.

    Raises:
        NotFound: the project has none with this id.
    """
    job = session.scalar(select(Job).where(Job.id == job_id, Job.project_id == project_id))
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    return job


def list_jobs(session: Session, project_id: str, query: JobQuery) -> tuple[list[Job], str | None]:
    """A page of the project's jobs and the cursor of the next."""
    statement = select(Job).where(Job.project_id == project_id)
    equal = {
        Job.status: query.status,
        Job.kind: query.kind,
        Job.subject: query.subject,
        Job.parent_id: query.parent,
    }
    for column, value in equal.items():
        if value is not None:
            statement = statement.where(column == value)
    for label in query.label:
        key, _, text = label.partition("=")
        if session.get_bind().dialect.name == "postgresql":  # in the form that its index answers
            statement = statement.where(type_coerce(Job.labels, JSONB).contains({key: text}))
        else:
            statement = statement.where(Job.labels[key].as_string() == text)
    return paginate(session, statement, Job, query)


def answers(session: Session, project_id: str, jobs: Sequence[Job]) -> list[JobAnswer]:
    """Jobs as clients see them: two statements however many they are."""
    ids = [job.id for job in jobs]
    steps, children = defaultdict(list), defaultdict(list)
    step_query = select(JobStep).where(JobStep.project_id == project_id, JobStep.job_id.in_(ids))
    for step in session.scalars(step_query.order_by(JobStep.job_id, JobStep.index)):
        steps[step.job_id].append(StepAnswer.model_validate(step))
    child_query = select(Job.parent_id, Job.id).where(Job.project_id == project_id, Job.parent_id.in_(ids))
    for row in session.execute(child_query.order_by(Job.created_at, Job.id)):
        children[row.parent_id].append(row.id)
    return [_answer(job, steps[job.id], children[job.id]) for job in jobs]


def cancel(session: Session, project_id: str, job_id: str) -> Job:
    """Cancel a job: at once while it waits, else as soon as its worker has killed its process. Again is no error.

    Raises:
        NotFound: the project has none with this id.
        Conflict: it is finished.
    """
    get_job(session, project_id, job_id)
    children = _locked(session, project_id, Job.parent_id == job_id)
    job = next(iter(_locked(session, project_id, Job.id == job_id)), None)
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    if finished(job.status):
        raise Conflict(f"the job {job_id} is {job.status} already: there is nothing to cancel")
    if job.status != JobStatus.CANCELLING:
        record(session, project_id, "job.cancelled", job_id, status=job.status)
    for each in (*children, job):
        if each.status == JobStatus.QUEUED:
            problem = Cancelled("the job was cancelled before it started").problem()
            changes.end(session, each, JobStatus.CANCELLED, problem=problem)
        elif each.status == JobStatus.RUNNING:
            changes.change(session, each, JobStatus.CANCELLING)
    if children:
        changes.settle(session, job_id)
        session.refresh(job)
    return job


def retry(session: Session, project_id: str, job_id: str) -> Job:
    """A new job with the request of a finished one.

    Raises:
        NotFound: the project has none with this id.
        Conflict: it is not finished.
        others: as `submit` does: model, data and catalog may have changed since.
    """
    job = get_job(session, project_id, job_id)
    if not finished(job.status):
        raise Conflict(f"the job {job_id} is {job.status}", hint="wait for its end, or cancel it first")
    return submit(session, project_id, read_request(job.request), retry_of=job_id)


def delete_job(session: Session, project_id: str, job_id: str) -> None:
    """Delete a finished job with its children, artifacts, steps, measurements, log and events.

    Raises:
        NotFound: the project has none with this id.
        Conflict: it is not finished, or another job starts from one of its artifacts.
    """
    get_job(session, project_id, job_id)
    children = _locked(session, project_id, Job.parent_id == job_id)
    jobs = [*children, *_locked(session, project_id, Job.id == job_id)]
    if running := [job for job in jobs if not finished(job.status)]:
        raise Conflict(f"the job {running[0].id} is {running[0].status}", hint="cancel it first")
    record(session, project_id, "job.deleted", job_id)
    ids = [job.id for job in jobs]
    made = select(Artifact).where(Artifact.project_id == project_id, Artifact.job_id.in_(ids))
    artifacts.remove(session, project_id, list(session.scalars(made.with_for_update())), with_jobs=ids)
    for statement in (
        delete(Event).where(Event.project_id == project_id, Event.subject_id.in_(ids)),
        delete(Job).where(Job.project_id == project_id, Job.parent_id == job_id),
        delete(Job).where(Job.project_id == project_id, Job.id == job_id),
    ):
        session.execute(statement, execution_options={"synchronize_session": False})


def log_text(session: Session, project_id: str, job_id: str) -> str:
    """What a job's processes printed; the middle of a long log is cut.

    Raises:
        NotFound: the project has none with this id.
    """
    get_job(session, project_id, job_id)
    query = select(JobLog.text).where(JobLog.project_id == project_id, JobLog.job_id == job_id)
    return "".join(session.scalars(query.order_by(JobLog.seq)))


def _queue(
    session: Session, project_id: str, grounds: Grounds, planned: Planned, queue: str, **columns: Any
) -> Job:
    own = {
        "recipe": planned.recipe.model_dump(mode="json"),
        "targets": [planned.target.model_dump(mode="json")],
    }
    job = _add(session, project_id, grounds, own, status=JobStatus.QUEUED, queue=queue, **columns)
    send_job(session, job.id, queue)
    return job


def _add(session: Session, project_id: str, grounds: Grounds, own: dict[str, Any], **columns: Any) -> Job:
    stored = {**grounds.request.model_dump(mode="json"), **own}
    read = read_request(stored)
    job = Job(
        id=new_id("job"),
        project_id=project_id,
        kind=grounds.request.kind,
        name=grounds.request.name,
        labels=grounds.request.labels,
        request=stored,
        subject=grounds.subject.id,
        subject_digest=grounds.subject.digest,
        datasets=sorted({**read.dataset_paths(), **read.teacher_paths()}),
        traceparent=tracing.current(),
        pending_until=db_now(grounds.request.limits.pending_seconds),
        **{"progress": {"done": 0, "total": 0, "message": ""}, **columns},
    )
    session.add(job)
    session.flush()
    changes.tell(session, job)
    session.refresh(job)
    return job


def _locked(session: Session, project_id: str, *where: Any) -> list[Job]:
    query = select(Job).where(Job.project_id == project_id, *where).order_by(Job.id).with_for_update()
    return list(session.scalars(query, execution_options={"populate_existing": True}))


def _answer(job: Job, steps: list[StepAnswer], children: list[str]) -> JobAnswer:
    shown = (
        *("recipe", "inputs", "targets", "evaluation", "budget", "advice", "data"),
        *("profile", "benchmark", "options", "limits"),
    )
    waited = (
        (job.started_at - job.created_at).total_seconds() + job.waited_seconds if job.started_at else None
    )
    return JobAnswer(
        id=job.id,
        kind=job.kind,
        name=job.name,
        status=JobStatus(job.status),
        finished=finished(job.status),
        stage=job.stage,
        progress=job.progress,
        attempt=job.attempt,
        parent=job.parent_id,
        children=children,
        retry_of=job.retry_of,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        queue_seconds=waited,
        steps=steps,
        result=job.result,
        problem=job.problem,
        labels=job.labels,
        subject=job.subject,
        url=f"{get_settings().public_url.rstrip('/')}/v1/jobs/{job.id}",
        **{name: job.request.get(name) for name in shown},
    )
