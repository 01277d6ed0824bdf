"""A job whose worker has built what it can, and that goes on with one that can run it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from app.auth.tables import DEFAULT_PROJECT
from app.config import Settings
from app.db import transaction
from app.fleet import service as fleet
from app.jobs import lease
from app.jobs.service import get_job
from app.jobs.status import JobStatus
from app.jobs.tables import Consumption, Job
from tests.workers.conftest import add_job, add_model, event_kinds, problem_code, read_job, rows, run
from workers import supervisor

BUILDING, MEASURING = "runtime.tensorrt-rtx", "runtime.tensorrt-rtx.sm89"
TARGET = {"runtime": "tensorrt-rtx", "params": {"compute_capabilities": [89]}}
KEY = "b" * 64


def queued(folder: Path, script: list[Any], **values: Any) -> Job:
    """A job for a GPU, in the queue of those that build for it."""
    job = add_job(add_model(folder), script, **values)
    change(job, queue=BUILDING, request={**job.request, "targets": [TARGET]})
    return job


def change(job: Job, **values: Any) -> None:
    with transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(**values))


def serve(*queues: str, worker: str = "wrk_gpu") -> None:
    """A worker with a GPU."""
    with transaction() as session:
        fleet.register(
            session, worker_id=worker, host=worker, pid=1, version="0", queues=list(queues), runtimes={}, hardware={}
        )  # fmt: skip


def built(folder: Path, **values: Any) -> Job:
    """A job that was built and handed over."""
    job = queued(
        folder, [["step", "build", KEY, str(folder / "done")], ["hand_over", "no GPU here"]], **values
    )
    serve(MEASURING)
    return run(job)


def claim(job: Job) -> Job:
    with transaction() as session:
        claimed = lease.claim(session, job.id, "wrk_gpu", 30)
    assert claimed is not None
    return claimed


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def test_it_waits_in_the_other_queue_and_finds_what_was_built(quick: Settings, tmp_path: Path) -> None:
    job = built(tmp_path)
    assert (job.status, job.queue, job.attempt, job.worker_id) == ("queued", MEASURING, 1, None)
    assert job.handed_over_at is not None
    done = [["step", "build", KEY, str(tmp_path / "done")]]
    change(job, request={**job.request, "recipe": {**job.request["recipe"], "script": done}})
    after = run(job)
    assert (after.status, after.attempt, after.handed_over_at) == ("succeeded", 2, None), after.problem
    assert len((tmp_path / "done").read_text().splitlines()) == 1, "what was built is not built again"
    assert [kind for kind in event_kinds(job.id) if kind.startswith("status")] == [
        "status:running", "status:queued", "status:running", "status:succeeded",
    ]  # fmt: skip


def test_waiting_is_no_running_time(quick: Settings, tmp_path: Path) -> None:
    job = built(tmp_path)
    assert job.running_until is not None
    assert job.started_at is not None
    hour = timedelta(hours=1)
    change(
        job,
        handed_over_at=ago(3600),
        started_at=job.started_at - hour,
        running_until=job.running_until - hour,
    )
    claimed = claim(job)
    assert claimed.waited_seconds == pytest.approx(3600, abs=30)
    assert claimed.running_until is not None
    assert abs((claimed.running_until - job.running_until).total_seconds()) < 30
    with transaction() as session:
        assert lease.finish(session, job.id, claimed.attempt, JobStatus.SUCCEEDED, {})
    (consumed,) = rows(Consumption)
    assert consumed.seconds < 60


def test_the_pending_limit_counts_anew(quick: Settings, tmp_path: Path) -> None:
    job = built(tmp_path)
    assert job.pending_until > datetime.now(UTC) + timedelta(seconds=3500)
    change(job, pending_until=ago(1))
    with transaction() as session:
        assert lease.expire(session, 3) == [job.id]
    ended = read_job(job.id)
    assert (ended.status, problem_code(ended)) == ("timed_out", "timed_out")
    assert ended.problem is not None
    assert ended.problem["param"] == "limits.pending_seconds"
    assert rows(Consumption)[0].seconds < 60


def test_a_cancelled_job_is_not_handed_over(quick: Settings, tmp_path: Path) -> None:
    job = queued(tmp_path, [])
    attempt = claim(job).attempt
    change(job, status="cancelling")
    with transaction() as session:
        assert lease.hand_over(session, job.id, attempt, MEASURING) == JobStatus.CANCELLED


def test_a_child_that_hands_over_what_goes_on_nowhere_is_misunderstood(
    quick: Settings, tmp_path: Path
) -> None:
    job = queued(tmp_path, [["hand_over", "no GPU here"]])
    after = run(job)
    assert (after.status, after.queue, after.handed_over_at) == ("queued", BUILDING, None)
    assert after.stalled_attempts == 1  # as any attempt that died


def test_it_waits_for_a_worker_of_the_queue_alone(quick: Settings, tmp_path: Path) -> None:
    job = built(tmp_path)
    with transaction() as session:
        get_job(session, DEFAULT_PROJECT, job.id)
        assert lease.claim_next(session, job.id, "wrk_gpu", 30) is not None
        assert session.scalar(select(Job.queue).where(Job.id == job.id)) == MEASURING
    supervisor.run(job.id)  # rung again: somebody has it
    assert read_job(job.id).worker_id == "wrk_gpu"
