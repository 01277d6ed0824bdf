"""What Prometheus reads: requests of this process, and jobs, queues and steps from the database."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db import db_now, transaction
from app.jobs.tables import Job, JobStep
from app.queue import INSPECT_QUEUE, queue_depth

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_registry = CollectorRegistry()
_requests = Counter(
    "burnish_http_requests", "Requests answered.", ["route", "method", "status"], registry=_registry
)
_seconds = Histogram(
    "burnish_http_request_seconds",
    "Seconds from a request's head to its answer's end.",
    ["route", "method"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
    registry=_registry,
)


def count_request(route: str, method: str, status: int, seconds: float) -> None:
    """Count one answered request. `route` is a template, so that the number of series is bounded."""
    method = method if method in METHODS else "other"
    _requests.labels(route, method, str(status)).inc()
    _seconds.labels(route, method).observe(seconds)


def exposition() -> bytes:
    """Every metric in Prometheus' text format.

    Raises:
        kombu.exceptions.OperationalError: the broker does not answer.
        sqlalchemy.exc.OperationalError: the database does not answer.
    """
    registry = CollectorRegistry()
    with transaction(readonly=True) as session:
        registry.register(_Fixed(_of_the_installation(session)))
    return generate_latest(_registry) + generate_latest(registry)


class _Fixed(Collector):
    def __init__(self, metrics: Iterable[Metric]):
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _of_the_installation(session: Session) -> Iterator[Metric]:
    """Over all projects, whose ids are no labels."""
    jobs = GaugeMetricFamily("burnish_jobs", "Jobs by status.", labels=["status"])
    for status, count in session.execute(select(Job.status, func.count()).group_by(Job.status)):
        jobs.add_metric([status], count)
    yield jobs

    now = session.scalars(select(db_now())).one()
    since = select(Job.queue, func.min(Job.created_at)).where(Job.status == "queued").group_by(Job.queue)
    waiting = {queue: (now - first).total_seconds() for queue, first in session.execute(since) if first}
    queues = {INSPECT_QUEUE, *session.scalars(select(Job.queue).distinct())}
    depth = GaugeMetricFamily("burnish_queue_messages", "Messages that wait in a queue.", labels=["queue"])
    oldest = GaugeMetricFamily(
        "burnish_queue_oldest_seconds", "How long the oldest queued job of a queue waits.", labels=["queue"]
    )
    for queue in sorted(queues):
        depth.add_metric([queue], queue_depth(queue))
        oldest.add_metric([queue], max(0.0, waiting.get(queue, 0.0)))
    yield depth
    yield oldest

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
