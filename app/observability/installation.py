"""What Prometheus reads of the whole installation, from the database: jobs, queues, steps, workers, bytes. Projects are no labels."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from sqlalchemy import func, select, union
from sqlalchemy.orm import Session

from app.artifacts.tables import Artifact
from app.datasets.tables import Dataset
from app.jobs.tables import Job, JobStep, StepResult
from app.models.tables import Model
from app.observability import queues
from app.uploads.tables import Upload
from app.webhooks.tables import WebhookDelivery


def families(session: Session) -> Iterator[Metric]:
    """Every metric of the installation.

    Raises:
        kombu.exceptions.OperationalError: the broker does not answer.
    """
    yield from _jobs(session)
    yield from queues.families(session)
    yield from _steps(session)
    yield from _stored(session)
    yield from _deliveries(session)


def _jobs(session: Session) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("burnish_jobs", "Jobs by status.", labels=["status"])
    for status, count in session.execute(select(Job.status, func.count()).group_by(Job.status)):
        jobs.add_metric([status], count)
    yield jobs
    problems = GaugeMetricFamily(
        "burnish_job_problems", "Ended jobs by their problem's code.", labels=["code"]
    )
    code = Job.problem["code"].as_string()
    query = select(code, func.count()).where(Job.finished_at.is_not(None), code.is_not(None)).group_by(code)
    for name, count in session.execute(query):
        problems.add_metric([name], count)
    yield problems


def _steps(session: Session) -> Iterator[Metric]:
    seconds = SummaryMetricFamily("burnish_step_seconds", "Seconds of steps that ran.", labels=["step"])
    steps = CounterMetricFamily(
        "burnish_steps", "Finished steps, by whether the cache had them.", labels=["step", "cached"]
    )
    rows = session.execute(
        select(JobStep.name, JobStep.cached, func.count(), func.sum(JobStep.seconds))
        .where(JobStep.status == "done")
        .group_by(JobStep.name, JobStep.cached)
    )
    for name, cached, count, total in rows:
        steps.add_metric([name, "true" if cached else "false"], count)
        if not cached:
            seconds.add_metric([name], count_value=count, sum_value=total or 0.0)
    yield steps
    yield seconds


def _stored(session: Session) -> Iterator[Metric]:
    kinds = {
        "upload": union(
            select(Model.upload_digest, Model.size_bytes), select(Dataset.upload_digest, Dataset.size_bytes)
        ),
        "artifact": select(Artifact.digest, Artifact.size_bytes).distinct(),
        "step": select(StepResult.digest, StepResult.size_bytes).distinct(),
        "unfinished_upload": select(Upload.id, Upload.offset_bytes).where(Upload.digest.is_(None)),
    }
    stored = GaugeMetricFamily(
        "burnish_stored_bytes", "Bytes that rows refer to, equal ones counted once.", labels=["kind"]
    )
    for kind, query in kinds.items():
        rows = query.subquery()
        stored.add_metric([kind], int(session.scalar(select(func.coalesce(func.sum(rows.c[1]), 0))) or 0))
    yield stored


def _deliveries(session: Session) -> Iterator[Metric]:
    deliveries = GaugeMetricFamily(
        "burnish_webhook_deliveries", "Messages to webhooks by status.", labels=["status"]
    )
    query = select(WebhookDelivery.status, func.count()).group_by(WebhookDelivery.status)
    for status, count in session.execute(query):
        deliveries.add_metric([status], count)
    yield deliveries
