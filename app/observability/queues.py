"""What an autoscaler reads, and who watches queues: jobs and uploads by queue, how long they wait, who serves them.

Counted in the database, which is the truth: the broker's lists lose messages, hold some twice, and know nothing of what runs.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app import inspections
from app.catalog.runtimes import RUNTIMES
from app.config import get_settings
from app.datasets.tables import Dataset
from app.db import db_now
from app.fleet import service as fleet
from app.jobs.fairness import NO_QUEUE, full_projects
from app.jobs.lease import HELD
from app.jobs.status import JobStatus
from app.jobs.tables import Job
from app.models.tables import Model
from app.queue import INSPECT_QUEUE, queue_depth, queue_for


@dataclass
class Load:
    """What a queue holds: jobs or uploads, and seconds since the oldest that waits was sent in."""

    waiting: int = 0
    running: int = 0
    oldest_seconds: float = 0.0


def families(session: Session) -> Iterator[Metric]:
    """The metrics that carry a label `queue`.

    Raises:
        kombu.exceptions.OperationalError: the broker does not answer.
    """
    loads = load(session)
    serving = _serving(session)
    on_demand = get_settings().queues_on_demand
    known = {INSPECT_QUEUE, *map(queue_for, RUNTIMES), *on_demand, *loads, *serving}
    jobs = GaugeMetricFamily(
        "burnish_queue_jobs",
        "Jobs of a queue (uploads, of the queue of inspections) that wait and may run, and that run.",
        labels=["queue", "state"],
    )
    oldest = GaugeMetricFamily(
        "burnish_queue_oldest_seconds",
        "How long the oldest of a queue waits that may run.",
        labels=["queue"],
    )
    depth = GaugeMetricFamily("burnish_queue_messages", "Messages that wait in a queue.", labels=["queue"])
    workers = GaugeMetricFamily(
        "burnish_workers",
        "Live workers that serve a queue; 0 where it holds something and none does.",
        labels=["queue"],
    )
    for queue in sorted(known):
        held = loads.get(queue, Load())
        jobs.add_metric([queue, "waiting"], held.waiting)
        jobs.add_metric([queue, "running"], held.running)
        oldest.add_metric([queue], held.oldest_seconds)
        if queue in loads or queue in serving:
            depth.add_metric([queue], queue_depth(queue))
            workers.add_metric([queue], serving.get(queue, 0))
    yield from (jobs, oldest, depth, workers)


def load(session: Session) -> dict[str, Load]:
    """What each queue holds that holds something, and the queue of inspections.

    A job of a project that runs as many as it may does not count as waiting: one more worker would not take it. One pass over
    the unfinished jobs and uploads, found by their status' index, however many are finished.
    """
    now = session.scalars(select(db_now())).one()
    loads: dict[str, Load] = defaultdict(Load)
    waits = Job.status == JobStatus.QUEUED
    query = (
        select(Job.queue, waits, func.count(), func.min(Job.created_at))
        .where(Job.status.in_((JobStatus.QUEUED, *HELD)), Job.queue != NO_QUEUE)
        .where(or_(~waits, Job.project_id.not_in(full_projects(session))))
        .group_by(Job.queue, waits)
    )
    for queue, queued, count, created_at in session.execute(query):
        if queued:
            loads[queue].waiting = count
            loads[queue].oldest_seconds = max(0.0, (now - created_at).total_seconds())
        else:
            loads[queue].running = count
    uploads = loads[INSPECT_QUEUE]
    for table in (Model, Dataset):
        waiting, running, first = inspections.load(session, table)
        uploads.waiting += waiting
        uploads.running += running
        if first is not None:
            uploads.oldest_seconds = max(uploads.oldest_seconds, (now - first).total_seconds())
    return dict(loads)


def _serving(session: Session) -> dict[str, int]:
    """Live workers by queue."""
    serving: dict[str, int] = defaultdict(int)
    for worker in fleet.list_live(session, get_settings().worker_seen_seconds):
        for queue in worker.queues:
            serving[queue] += 1
    return dict(serving)
