"""The hold on a job, on both databases."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from app.config import Settings
from app.db import transaction
from app.errors import Crashed
from app.jobs import lease, logs
from app.jobs.status import JobStatus
from app.jobs.tables import Job, JobLog, JobStep
from tests.workers.conftest import add_job, add_model, event_kinds, problem_code, read_job

PROBLEM = Crashed("it died").problem()
STEP = {
    "index": 0, "name": "pass:simplify", "status": "running", "cached": False, "seconds": None, "key": None, "facts": {},
}  # fmt: skip


def claim(job: Job, worker: str = "wrk_a", seconds: float = 30) -> Job | None:
    with transaction() as session:
        return lease.claim(session, job.id, worker, seconds)


def do(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    with transaction() as session:
        return function(session, *arguments, **named)


def change(job: Job, **values: Any) -> None:
    with transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(**values))


def past(seconds: float = 60) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


@pytest.fixture
def job(burnish: Settings, tmp_path: Path) -> Job:
    return add_job(add_model(tmp_path))


def test_of_many_claims_one_wins(job: Job) -> None:
    barrier = threading.Barrier(8)

    def try_claim(number: int) -> Job | None:
        barrier.wait()
        return claim(job, f"wrk_{number}")

    with ThreadPoolExecutor(8) as pool:
        won = [claimed for claimed in pool.map(try_claim, range(8)) if claimed is not None]
    assert len(won) == 1
    now = read_job(job.id)
    assert (now.status, now.attempt, now.worker_id) == ("running", 1, won[0].worker_id)
    assert now.started_at is not None
    assert now.running_until is not None
    assert event_kinds(job.id) == ["status:running"]


def test_running_limit_counts_from_the_first_attempt(job: Job) -> None:
    first = claim(job)
    assert first is not None
    do(lease.give_back, job.id, 1)
    second = claim(job)
    assert second is not None
    assert (second.attempt, second.running_until, second.started_at) == (
        2,
        first.running_until,
        first.started_at,
    )
    with transaction(readonly=True) as session:
        assert 3590 < lease.seconds_left(session, job.id) <= 3600


def test_a_job_past_its_pending_limit_is_not_claimed(job: Job) -> None:
    change(job, pending_until=past())
    assert claim(job) is None
    now = read_job(job.id)
    assert (now.status, problem_code(now)) == ("timed_out", "timed_out")
    assert now.problem is not None
    assert now.problem["param"] == "limits.pending_seconds"


def test_the_pending_limit_ends_with_the_first_claim(job: Job) -> None:
    claim(job)
    do(lease.give_back, job.id, 1)
    change(job, pending_until=past())
    assert claim(job) is not None


@pytest.mark.parametrize(
    "write",
    [
        lambda job: do(lease.renew, job.id, 1, 30),
        lambda job: do(lease.progress, job.id, 1, "late", {"done": 1, "total": 2, "message": ""}),
        lambda job: do(lease.record_step, job.id, 1, STEP),
        lambda job: do(lease.step_stored, job.id, 1),
        lambda job: do(logs.append_log, job.id, 1, "late", 1000),
        lambda job: do(lease.finish, job.id, 1, JobStatus.SUCCEEDED, {"late": True}),
        lambda job: do(lease.give_back, job.id, 1),
        lambda job: do(lease.hand_over, job.id, 1, "runtime.tensorrt-rtx.sm89"),
        lambda job: do(lease.retry_later, job.id, 1, PROBLEM, 3),
    ],
)
def test_a_stale_attempt_writes_nothing(job: Job, write: Callable[[Job], Any]) -> None:
    claim(job, "wrk_a")
    change(job, lease_expires_at=past())
    do(lease.expire, 3)
    assert not write(job), "queued again: the first attempt holds it no more"
    claim(job, "wrk_b")
    before, events = read_job(job.id), event_kinds(job.id)
    assert not write(job)
    after = read_job(job.id)
    for column in Job.__table__.columns:
        assert getattr(after, column.key) == getattr(before, column.key), column.key
    assert event_kinds(job.id) == events
    with transaction(readonly=True) as session:
        assert session.scalars(select(JobLog)).all() == []
        assert session.scalars(select(JobStep)).all() == []


def test_progress_and_steps_are_seen(job: Job) -> None:
    claim(job)
    assert do(lease.progress, job.id, 1, "pass:simplify", {"done": 1, "total": 4, "message": "nodes"})
    assert do(lease.record_step, job.id, 1, STEP)
    assert do(lease.record_step, job.id, 1, {**STEP, "status": "done", "seconds": 1.5, "key": "0" * 64})
    now = read_job(job.id)
    assert (now.stage, now.progress) == ("pass:simplify", {"done": 1, "total": 4, "message": "nodes"})
    with transaction(readonly=True) as session:
        step = session.scalars(select(JobStep)).one()
        assert (step.status, step.seconds, step.project_id) == ("done", 1.5, job.project_id)
    assert event_kinds(job.id) == ["status:running", "progress", "step", "step"]


def test_finishing_ends_what_ran(job: Job) -> None:
    claim(job)
    do(lease.record_step, job.id, 1, STEP)
    assert do(lease.finish, job.id, 1, JobStatus.FAILED, problem=PROBLEM)
    assert not do(lease.finish, job.id, 1, JobStatus.SUCCEEDED)
    now = read_job(job.id)
    assert (now.status, now.lease_expires_at, problem_code(now)) == ("failed", None, "crashed")
    assert now.finished_at is not None
    with transaction(readonly=True) as session:
        assert session.scalars(select(JobStep.status)).one() == "failed"


def test_a_crash_is_tried_again_until_nothing_new_was_stored_too_often(job: Job) -> None:
    for attempt in (1, 2):
        claim(job)
        assert do(lease.retry_later, job.id, attempt, PROBLEM, 3) == "queued"
    claim(job)
    do(lease.step_stored, job.id, 3)
    assert do(lease.retry_later, job.id, 3, PROBLEM, 3) == "queued", "it got further: counted anew"
    for attempt in (4, 5):
        claim(job)
        assert do(lease.retry_later, job.id, attempt, PROBLEM, 3) == "queued"
    claim(job)
    assert do(lease.retry_later, job.id, 6, PROBLEM, 3) == "failed"
    assert problem_code(read_job(job.id)) == "crashed"


def test_giving_back_is_no_failure(job: Job) -> None:
    for attempt in range(1, 6):
        claim(job)
        assert do(lease.give_back, job.id, attempt) == "queued"
    assert read_job(job.id).stalled_attempts == 0


@pytest.mark.parametrize("settle", ["give_back", "retry_later", "expire"])
def test_a_job_that_is_being_cancelled_is_not_queued_again(job: Job, settle: str) -> None:
    claim(job)
    change(job, status="cancelling")
    assert do(lease.renew, job.id, 1, 30) == "cancelling"
    if settle == "give_back":
        do(lease.give_back, job.id, 1)
    elif settle == "retry_later":
        do(lease.retry_later, job.id, 1, PROBLEM, 3)
    else:
        change(job, lease_expires_at=past())
        assert do(lease.expire, 3) == [job.id]
    now = read_job(job.id)
    assert (now.status, problem_code(now)) == ("cancelled", "cancelled")


def test_expire_settles_only_what_is_over(burnish: Settings, tmp_path: Path) -> None:
    model = add_model(tmp_path)
    fresh, waiting, late, lost, last, over = (add_job(model) for _ in range(6))
    change(late, pending_until=past())
    for job in (fresh, lost, last, over):
        claim(job)
    for job in (lost, last, over):
        change(job, lease_expires_at=past())
    change(last, stalled_attempts=3)
    change(over, running_until=past())
    assert set(do(lease.expire, 3)) == {late.id, lost.id, last.id, over.id}
    found = {
        name: (read_job(job.id).status, problem_code(read_job(job.id)))
        for name, job in {
            "fresh": fresh, "waiting": waiting, "late": late, "lost": lost, "last": last, "over": over,
        }.items()
    }  # fmt: skip
    assert found == {
        "fresh": ("running", None),
        "waiting": ("queued", None),
        "late": ("timed_out", "timed_out"),
        "lost": ("queued", None),
        "last": ("failed", "crashed"),
        "over": ("timed_out", "timed_out"),
    }
    assert do(lease.expire, 3) == []


def test_stale_messages_are_found_once(burnish: Settings, tmp_path: Path) -> None:
    model = add_model(tmp_path)
    old, new = add_job(model), add_job(model)
    change(old, sent_at=past())
    assert do(lease.queued_by_queue, 30) == {old.queue: 2}
    assert do(lease.stale_queued, old.queue, 30) == [old.id]
    assert do(lease.stale_queued, old.queue, 30) == []
    assert do(lease.queued_by_queue, 30) == {}
    assert read_job(new.id).status == "queued"


def read_log(job: Job) -> str:
    with transaction(readonly=True) as session:
        return "".join(session.scalars(select(JobLog.text).order_by(JobLog.seq)))


def test_a_log_keeps_head_and_tail(job: Job) -> None:
    claim(job)
    written = ""
    for number in range(400):
        line = f"line {number} with an ümlaut\n"
        written += line
        assert do(logs.append_log, job.id, 1, line, 2000)
    text = read_log(job)
    head, _, rest = text.partition("\n[… ")
    count, _, tail = rest.partition(" bytes of log were cut here …]\n")
    assert len(text.encode()) <= 2000 + 300, "one piece may be over, and the line that says what was cut"
    assert written.startswith(head)
    assert written.endswith(tail)
    assert len(head.encode()) > 500
    assert len(tail.encode()) > 500
    assert int(count) == len(written.encode()) - len(head.encode()) - len(tail.encode())


def test_a_short_log_is_whole_and_nul_does_not_break_it(job: Job) -> None:
    claim(job)
    do(logs.append_log, job.id, 1, "a\0b\n", 2000)
    do(logs.append_log, job.id, 1, "c\n", 2000)
    assert read_log(job) == "a\N{REPLACEMENT CHARACTER}b\nc\n"
