"""Jobs that real workers run, whose children do as they are told."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import func, select

from app.db import transaction
from app.fleet.tables import Worker
from app.jobs.tables import Job
from app.models.tables import Model
from app.queue import send_job
from tests.faults.parts import Program, until
from tests.workers.conftest import add_job, read_job

Start = Callable[..., Program]


def entered(pid: int) -> bool:
    with transaction(readonly=True) as session:
        return bool(session.scalar(select(func.count()).select_from(Worker).where(Worker.pid == pid)))


def submit(model: Model, script: list[list[object]], **values: Any) -> Job:
    job = add_job(model, script, **values)
    with transaction() as session:
        send_job(session, job.id, job.queue)
    return job


def ended(job: Job) -> Job:
    until(lambda: read_job(job.id).finished_at)
    return read_job(job.id)
