"""Projects take turns, whatever each has queued."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import event, insert, text, update

from app.auth.tables import DEFAULT_PROJECT, Project
from app.config import Settings
from app.db import db_now, get_engine, transaction
from app.errors import Crashed
from app.jobs import lease
from app.jobs.fairness import next_in_line
from app.jobs.status import JobStatus
from app.jobs.tables import Job
from tests.app.api.support import make_project
from tests.app.jobs.factories import RUNTIME, finish, sha

QUEUE = f"runtime.{RUNTIME}"


def queue_jobs(project: str, count: int, queue: str = QUEUE, first: int = 0) -> list[str]:
    """Rows as submitting leaves them, without what submitting looks at; each a millisecond after the one before."""
    ids = [f"job_{project}_{first + number:06}" for number in range(count)]
    rows = [
        {
            "id": id_,
            "project_id": project,
            "kind": "optimize",
            "labels": {},
            "status": "queued",
            "progress": {},
            "request": {"limits": {"pending_seconds": 3600, "running_seconds": 3600}},
            "subject": "mdl_x",
            "subject_digest": sha("x"),
            "datasets": [],
            "queue": queue,
            "attempt": 0,
            "stalled_attempts": 0,
        }
        for id_ in ids
    ]
    with transaction() as session:
        for start in range(0, count, 5000):
            session.execute(
                insert(Job).values(created_at=db_now(), sent_at=db_now(), pending_until=db_now(3600)),
                rows[start : start + 5000],
            )
    return ids


def claim_next(rung: str) -> Job | None:
    with transaction() as session:
        return lease.claim_next(session, rung, "wrk_test", 30)


def turns(rung: str, count: int) -> list[str]:
    """Whose jobs are claimed, one after another, each ended before the next."""
    projects = []
    for _ in range(count):
        job = claim_next(rung)
        assert job is not None
        projects.append(job.project_id)
        assert finish(job.id, job.attempt)
    return projects


def limit(project: str, most: int) -> None:
    with transaction() as session:
        session.execute(update(Project).where(Project.id == project).values(max_running_jobs=most))


def test_who_comes_later_waits_for_no_queue_of_others(burnish: Settings) -> None:
    a, b = make_project("a"), make_project("b")
    first = queue_jobs(a, 200)
    assert turns(first[0], 2) == [a, a]
    queue_jobs(b, 3)
    assert turns(first[0], 6) == [b, a, b, a, b, a]
    assert turns(first[0], 3) == [a, a, a]


def test_within_a_project_the_oldest_is_next(burnish: Settings) -> None:
    ids = queue_jobs(DEFAULT_PROJECT, 5)
    assert [getattr(claim_next(ids[4]), "id", None) for _ in range(6)] == [*ids, None]


def test_who_runs_least_is_next(burnish: Settings) -> None:
    a, b = make_project("a"), make_project("b")
    [rung, *_] = queue_jobs(a, 10)
    held = [claim_next(rung) for _ in range(3)]  # three of a's run
    assert {job.project_id for job in held if job} == {a}
    queue_jobs(b, 5)
    after = [claim_next(rung) for _ in range(4)]
    assert [job.project_id for job in after[:3] if job] == [b, b, b]
    assert after[3] is not None  # both run three: either may be next


def test_many_projects_go_round(burnish: Settings) -> None:
    projects = [make_project(f"project {number}") for number in range(20)]
    queued = [queue_jobs(project, 3) for project in projects]
    served = turns(queued[0][0], 60)
    for start in (0, 20, 40):
        assert set(served[start : start + 20]) == set(projects)


def test_a_project_at_its_limit_is_passed_over(burnish: Settings) -> None:
    a, b = make_project("a"), make_project("b")
    limit(a, 1)
    [rung, *_] = queue_jobs(a, 5)
    queue_jobs(b, 3)
    claimed = [claim_next(rung) for _ in range(5)]
    assert [job.project_id for job in claimed if job is not None] in ([a, b, b, b], [b, a, b, b])
    assert claimed[4] is None


def test_queues_do_not_wait_for_each_other(burnish: Settings) -> None:
    a = make_project("a")
    [here] = queue_jobs(a, 1)
    [there] = queue_jobs(a, 1, "runtime.other", first=10)
    for rung in (there, here):
        job = claim_next(rung)
        assert job is not None
        assert job.id == rung


def test_a_job_that_fails_again_and_again_lets_others_through(burnish: Settings) -> None:
    bad, good = queue_jobs(DEFAULT_PROJECT, 2)
    problem = Crashed("it died").problem()
    for _ in range(3):
        job = claim_next(good)
        assert job is not None
        assert job.id == bad  # the oldest is tried again first …
        with transaction() as session:
            ended = lease.retry_later(session, bad, job.attempt, problem, 3)
    assert ended is JobStatus.FAILED  # … but not for ever
    job = claim_next(bad)
    assert job is not None
    assert job.id == good


@pytest.mark.slow
def test_a_claim_costs_the_same_however_many_wait(burnish: Settings) -> None:
    projects = [make_project(f"project {number}") for number in range(10)]
    for project in projects:
        queue_jobs(project, 100)
    _analyze()
    few = _claims()
    for project in projects:
        queue_jobs(project, 9_900, first=100)
    _analyze()
    many = _claims()
    assert statistics.median(many) < 3 * statistics.median(few), (few, many)
    if get_engine().dialect.name == "postgresql":
        plan = _plan()
        assert "Index" in plan
        assert "Seq Scan on jobs" not in plan


def _claims() -> Sequence[float]:
    took = []
    for _ in range(30):
        begun = time.perf_counter()
        with transaction() as session:
            found = next_in_line(session, QUEUE)
            assert found is not None
            assert lease.claim(session, found.job_id, "wrk_test", 30) is not None
        took.append(time.perf_counter() - begun)
    return took


def _analyze() -> None:
    with get_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


def _plan() -> str:
    """How PostgreSQL does what `next_in_line` asks."""
    asked: list[Any] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        asked.append((statement, parameters))

    with transaction(readonly=True) as session:
        event.listen(get_engine(), "before_cursor_execute", note)
        try:
            next_in_line(session, QUEUE)
        finally:
            event.remove(get_engine(), "before_cursor_execute", note)
        [(statement, parameters)] = asked
        plan = session.connection().exec_driver_sql(f"EXPLAIN {statement}", parameters)
        return "\n".join(plan.scalars())
