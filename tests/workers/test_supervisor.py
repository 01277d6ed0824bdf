"""One attempt, with a real child process."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, delete, select, text, update

from app.artifacts.tables import Artifact, ArtifactInput
from app.config import Settings
from app.db import transaction
from app.jobs import lease
from app.jobs.tables import Job, JobLog, JobStep, StepResult
from app.measurements.tables import Measurement
from app.models.tables import Model
from app.storage import get_storage
from tests.workers.conftest import (
    FAKE_CHILD,
    HANG,
    add_job,
    add_model,
    event_kinds,
    problem_code,
    read_job,
    rows,
    run,
)
from workers import running, supervisor
from workers.problems import ProcessDied

KEY = "a" * 64


@pytest.fixture
def background() -> Iterator[Callable[[Job], "Future[None]"]]:
    """Runs a job in a thread of its own, as a worker does."""
    with ThreadPoolExecutor(4) as pool:
        yield lambda job: pool.submit(supervisor.run, job.id, FAKE_CHILD)
        running.stopping.set()  # where a test failed, nothing is left


def wait_until(true: Callable[[], Any], seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return value


def lines(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def change(job: Job, **values: Any) -> None:
    with transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(**values))


def no_folder_left(settings: Settings) -> bool:
    return not list(settings.scratch_path.glob("*"))


def test_a_result_ends_the_job_in_one_piece(quick: Settings, tmp_path: Path) -> None:
    job = run(add_job(add_model(tmp_path), [["progress", "building", 1, 2], ["artifacts", "an engine"]]))
    assert (job.status, job.problem, job.attempt) == ("succeeded", None, 1)
    (artifact,) = rows(Artifact)
    assert job.result == {"verification": "verified", "artifacts": {"engine": artifact.id}}
    assert b"".join(get_storage().open(artifact.digest)) == b"an engine"
    assert [source.role for source in rows(ArtifactInput)] == ["subject"]
    assert [(number.name, number.value) for number in rows(Measurement)] == [("latency_p50", 1.5)]
    assert event_kinds(job.id) == ["status:running", "progress", "status:succeeded"]
    assert no_folder_left(quick)


def test_over_budget_fails_and_keeps_result_and_engine(model: Model) -> None:
    job = run(add_job(model, [["over_budget", "an engine"]]))
    assert (job.status, problem_code(job)) == ("failed", "budget_not_met")
    assert job.result is not None
    assert list(job.result["artifacts"]) == ["engine"]
    assert len(rows(Artifact)) == len(rows(Measurement)) == 1


def test_a_message_that_comes_twice_runs_once(
    model: Model, background: Callable[[Job], "Future[None]"], tmp_path: Path
) -> None:
    job = add_job(model, [["mark", str(tmp_path / "ran")], ["sleep", 0.5]])
    for done in [background(job) for _ in range(3)]:
        done.result(timeout=30)
    supervisor.run(job.id, FAKE_CHILD)
    assert len(lines(tmp_path / "ran")) == 1
    assert read_job(job.id).attempt == 1


def test_steps_are_stored_found_and_resumed(model: Model, tmp_path: Path) -> None:
    marks = [str(tmp_path / name) for name in ("one", "two", "crashed")]
    script = [
        ["step", "one", "1" * 64, marks[0]],
        ["once", marks[2], [["signal", signal.SIGKILL]]],
        ["step", "two", "2" * 64, marks[1]],
    ]
    job = add_job(model, script)
    assert run(job).status == "queued"
    assert run(job).status == "succeeded"
    assert [len(lines(Path(mark))) for mark in marks] == [1, 1, 1]
    assert sorted(step.name for step in rows(StepResult)) == ["one", "two"]
    again = run(add_job(model, script))
    assert (again.status, len(lines(Path(marks[0])))) == ("succeeded", 1)
    with transaction() as session:
        assert session.scalars(select(JobStep.cached).where(JobStep.job_id == again.id)).all() == [True]


def test_no_cache_takes_only_what_the_job_itself_stored(model: Model, tmp_path: Path) -> None:
    one, crashed = str(tmp_path / "one"), str(tmp_path / "crashed")
    run(add_job(model, [["step", "one", KEY, one]]))
    script = [["step", "one", KEY, one], ["once", crashed, [["exit", 3]]]]
    job = add_job(model, script, no_cache=True)
    assert run(job).status == "queued"
    assert len(lines(Path(one))) == 2
    assert run(job).status == "succeeded"
    assert len(lines(Path(one))) == 2


def test_a_stored_step_whose_files_are_gone_is_done_again(model: Model, tmp_path: Path) -> None:
    one = str(tmp_path / "one")
    run(add_job(model, [["step", "one", KEY, one]]))
    (stored,) = rows(StepResult)
    get_storage().delete(get_storage().tree(stored.digest)[0].digest)
    assert run(add_job(model, [["step", "one", KEY, one]])).status == "succeeded"
    assert len(lines(Path(one))) == 2


def test_steps_of_another_project_are_not_found(model: Model, tmp_path: Path) -> None:
    from app.auth.tables import Project

    one = str(tmp_path / "one")
    run(add_job(model, [["step", "one", KEY, one]]))
    with transaction() as session:
        session.add(Project(id="prj_other", name="other"))
        session.flush()
        session.execute(update(StepResult).values(project_id="prj_other"))
    run(add_job(model, [["step", "one", KEY, one]]))
    assert len(lines(Path(one))) == 2


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (["signal", signal.SIGSEGV], "SIGSEGV"),
        (["signal", signal.SIGKILL], "SIGKILL"),
        (["exit", 7], "status 7"),
    ],
)
def test_a_death_is_crashed_with_its_last_words(model: Model, how: list[Any], words: str) -> None:
    job = add_job(model, [["progress", "pass:simplify"], ["print", "the node Conv_7 is odd"], how])
    for status in ("queued", "queued", "failed"):
        assert run(job).status == status
    problem = read_job(job.id).problem
    assert problem is not None
    assert (problem["code"], problem["stage"], problem["retryable"]) == ("crashed", "pass:simplify", True)
    assert words in problem["detail"]
    assert "the node Conv_7 is odd" in problem["detail"]
    with transaction() as session:
        printed = "".join(session.scalars(select(JobLog.text).order_by(JobLog.seq)))
    assert printed == "the node Conv_7 is odd\n" * 3
    assert read_job(job.id).attempt == 3


@pytest.mark.parametrize(
    ("again", "statuses"), [(True, ("queued", "queued", "failed")), (False, ("failed",))]
)
def test_a_problem_that_another_attempt_may_not_have(
    model: Model, again: bool, statuses: tuple[str, ...]
) -> None:
    problem = ProcessDied("process 1 of the 2 that train was killed by SIGKILL", stage="training").problem()
    said = {"type": "problem", "problem": problem, "result": None, "again": again}
    job = add_job(model, [["say", json.dumps(said)]])
    for status in statuses:
        assert run(job).status == status
    ended = read_job(job.id)
    assert ended.attempt == len(statuses)
    assert ended.problem is not None
    assert (ended.problem["code"], ended.problem["stage"]) == ("crashed", "training")
    assert "process 1 of the 2" in ended.problem["detail"]


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        '{"type": "progress", "stage": NaN, "done": 0, "total": 0, "message": ""}',
        '{"type": "unheard"}',
        '{"type": "lookup", "key": "../../etc/passwd"}',
        f'{{"type": "store", "key": "{KEY}", "name": "x", "root": "/etc", "facts": {{}}, "seconds": 1}}',
        '{"type": "result", "result": {"artifacts": 3}}',
        '{"type": "problem", "problem": "none", "result": null}',
        "[" * 100_000,
    ],
)
def test_a_child_that_does_not_speak_the_protocol_has_crashed(model: Model, line: str) -> None:
    job = run(add_job(model, [["say", line]], stalled_attempts=2))
    assert (job.status, problem_code(job)) == ("failed", "crashed")
    assert not rows(StepResult)


def test_a_child_cannot_name_a_file_that_is_not_its_own(model: Model, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the worker")
    artifact = {
        "role": "engine", "kind": "engine", "filename": "x", "media_type": "x", "path": str(secret),
        "manifest": None, "inputs": [],
    }  # fmt: skip
    result = {"result": {}, "artifacts": [artifact], "measurements": []}
    job = run(add_job(model, [["result", result]], stalled_attempts=2))
    assert (job.status, problem_code(job), rows(Artifact)) == ("failed", "crashed", [])


def test_cancel_kills_everything_within_seconds(
    model: Model, background: Callable[[Job], "Future[None]"], tmp_path: Path, quick_sqlite: Settings
) -> None:
    pids = tmp_path / "pids"
    job = add_job(model, [["mark", str(pids)], ["spawn", str(pids)], HANG])
    done = background(job)
    wait_until(lambda: len(lines(pids)) == 3)
    change(job, status="cancelling")
    done.result(timeout=10)
    now = read_job(job.id)
    assert (now.status, problem_code(now)) == ("cancelled", "cancelled")
    assert not [pid for pid in lines(pids) if alive(pid)]
    assert no_folder_left(quick_sqlite)


def test_a_child_that_ignores_the_request_to_stop_is_killed(
    model: Model, background: Callable[[Job], "Future[None]"], tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    job = add_job(model, [["mark", str(pids)], HANG])
    done = background(job)
    (pid,) = wait_until(lambda: lines(pids))
    os.kill(pid, signal.SIGSTOP)
    change(job, status="cancelling")
    done.result(timeout=15)
    assert read_job(job.id).status == "cancelled"
    assert not alive(pid)


def test_no_orphans_after_a_crash(model: Model, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    run(add_job(model, [["spawn", str(pids)], ["exit", 1]]))
    assert len(lines(pids)) == 2
    assert not [pid for pid in lines(pids) if alive(pid)]


def test_a_lost_lease_stops_the_child_and_writes_nothing(
    model: Model, background: Callable[[Job], "Future[None]"], tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    job = add_job(model, [["mark", str(pids)], HANG])
    done = background(job)
    (pid,) = wait_until(lambda: lines(pids))
    with transaction() as session:
        session.execute(update(Job).values(status="queued"))
    with transaction() as session:
        other = lease.claim(session, job.id, "wrk_other", 60)
    assert other is not None
    done.result(timeout=10)
    assert not alive(pid)
    now = read_job(job.id)
    assert (now.status, now.attempt, now.worker_id, now.problem) == ("running", 2, "wrk_other", None)


def test_shutdown_gives_the_lease_back(
    model: Model, background: Callable[[Job], "Future[None]"], tmp_path: Path
) -> None:
    job = add_job(model, [["mark", str(tmp_path / "pids")], HANG])
    done = background(job)
    wait_until(lambda: lines(tmp_path / "pids"))
    running.stopping.set()
    done.result(timeout=10)
    now = read_job(job.id)
    assert (now.status, now.stalled_attempts, now.worker_id) == ("queued", 0, None)
    assert read_job(run(job).id).attempt == 1, "a worker that stops claims nothing"


def test_a_subject_that_is_gone(model: Model) -> None:
    job = add_job(model)
    with transaction() as session:
        session.execute(delete(Model))
    job = run(job)
    assert (job.status, problem_code(job)) == ("failed", "not_found")


def test_one_job_measures_at_a_time(
    model: Model, background: Callable[[Job], "Future[None]"], tmp_path: Path
) -> None:
    script = [["acquire", "cpu"], ["measure", str(tmp_path / "measuring"), 1.0], ["release", "cpu"]]
    jobs = [add_job(model, script) for _ in range(3)]
    for done in [background(job) for job in jobs]:
        done.result(timeout=40)
    assert {read_job(job.id).status for job in jobs} == {"succeeded"}


def test_a_dead_job_gives_its_device_back(model: Model, settings_of: Callable[..., Settings]) -> None:
    settings_of(max_attempts=1)  # else it would be the oldest that waits, and next again
    run(add_job(model, [["acquire", "cpu"], ["exit", 1]]))
    assert run(add_job(model, [["acquire", "cpu"], ["release", "cpu"]])).status == "succeeded"


def test_a_job_that_waits_for_a_device_can_be_cancelled(
    model: Model, background: Callable[[Job], "Future[None]"], tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    first = add_job(model, [["acquire", "cpu"], ["mark", str(pids)], HANG])
    holder = background(first)
    wait_until(lambda: lines(pids))
    second = add_job(model, [["acquire", "cpu"], HANG])
    waiter = background(second)
    wait_until(lambda: read_job(second.id).stage == "waiting")
    change(second, status="cancelling")
    waiter.result(timeout=10)
    change(first, status="cancelling")
    holder.result(timeout=10)
    assert [read_job(job.id).status for job in (first, second)] == ["cancelled", "cancelled"]


def test_the_database_may_be_away_for_a_while(
    model: Model, background: Callable[[Job], "Future[None]"], tmp_path: Path, quick_sqlite: Settings
) -> None:
    import sqlite3

    pids = tmp_path / "pids"
    job = add_job(model, [["mark", str(pids)], ["sleep", 1], ["artifacts", "an engine"]])
    done = background(job)
    wait_until(lambda: lines(pids))
    path = quick_sqlite.resolved_database_url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        time.sleep(2.5)
        blocker.execute("ROLLBACK")
    done.result(timeout=20)
    assert read_job(job.id).status == "succeeded"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_connections_to_the_database_may_break(
    quick: Settings, background: Callable[[Job], "Future[None]"], tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    chatter = [action for number in range(30) for action in (["progress", f"at {number}"], ["sleep", 0.1])]
    job = add_job(add_model(tmp_path), [["mark", str(pids)], *chatter, ["artifacts", "an engine"]])
    done = background(job)
    wait_until(lambda: lines(pids))
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    engine = create_engine(quick.database_url)
    broken = 0
    while not done.done():
        with engine.connect() as connection:
            broken += len(connection.execute(text(others)).all())
        time.sleep(0.2)
    engine.dispose()
    done.result()
    assert broken > 5
    assert read_job(job.id).status == "succeeded"


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_threads_do_not_pile_up(model: Model) -> None:
    run(add_job(model))
    before = threading.active_count()
    for _ in range(3):
        run(add_job(model))
    assert threading.active_count() <= before
