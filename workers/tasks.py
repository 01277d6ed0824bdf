"""What messages ask for. Thin: an id goes in, nothing comes out; the database is the truth."""

from celery import Celery

from app.queue import INSPECT, RUN_JOB
from workers import inspection, supervisor


def run_job(job_id: str) -> None:
    """Run the job that is next in this one's queue."""
    supervisor.run(job_id)


def inspect(subject_id: str) -> None:
    """Inspect an uploaded model or dataset."""
    inspection.inspect(subject_id)


def register(celery: Celery) -> None:
    """Make the tasks known under the names that `app.queue` sends."""
    celery.task(run_job, name=RUN_JOB)
    celery.task(inspect, name=INSPECT)
