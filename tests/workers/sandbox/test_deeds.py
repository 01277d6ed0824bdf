"""Hostile jobs through a whole supervisor: each ends with a clear reason, the worker lives, and nothing is left behind."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from app.artifacts.tables import Artifact
from app.config import Settings
from app.db import transaction
from app.jobs.tables import Job, JobLog, StepResult
from app.models.tables import Model
from app.storage import get_storage
from tests.workers.conftest import add_job, problem_code, read_job, rows
from workers import supervisor
from workers.sandbox.cgroups import ROOT

HOSTILE = (sys.executable, str(Path(__file__).with_name("hostile.py")))
SECRET = "of nobody's business"
ALL = ""
WITHOUT_NAMESPACES = "--without=namespaces"
WITHOUT_ANY = "--without=namespaces --without=landlock --without=seccomp"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "private" / "file"
    path.parent.mkdir()
    path.write_text(SECRET)
    return path


def run(model: Model, *deed: object, walls: str = ALL, **values: float) -> Job:
    job = add_job(model, [list(deed)], **{"stalled_attempts": 2, **values})
    supervisor.run(job.id, (*HOSTILE, *walls.split()))
    return read_job(job.id)


def nothing_is_left(settings: Settings) -> None:
    assert list(settings.scratch_path.glob("*")) == []
    assert list(ROOT.rglob(f"burnish-{os.getpid()}-*")) == []


@pytest.mark.parametrize("walls", [ALL, WITHOUT_ANY])
def test_memory(
    model: Model, settings_of: Callable[..., Settings], quick_sqlite: Settings, walls: str
) -> None:
    settings_of(child_memory_bytes=150 * 1024 * 1024)
    job = run(model, "eat_memory", walls=walls)
    assert (job.status, problem_code(job)) == ("failed", "out_of_memory")
    assert job.problem is not None
    assert "157286400 bytes" in job.problem["detail"]
    nothing_is_left(quick_sqlite)


def test_disk(model: Model, settings_of: Callable[..., Settings], quick_sqlite: Settings) -> None:
    settings_of(child_scratch_bytes=20 * 1024 * 1024)
    job = run(model, "fill_the_disk")
    assert (job.status, problem_code(job)) == ("failed", "disk_full")
    nothing_is_left(quick_sqlite)


def test_time(model: Model, quick_sqlite: Settings) -> None:
    job = run(model, "loop", running_seconds=2)
    assert (job.status, problem_code(job)) == ("timed_out", "timed_out")
    nothing_is_left(quick_sqlite)


@pytest.mark.parametrize("walls", [ALL, WITHOUT_NAMESPACES])
def test_a_fork_bomb(
    model: Model, settings_of: Callable[..., Settings], quick_sqlite: Settings, walls: str
) -> None:
    settings_of(child_processes=60)
    job = run(model, "fork_for_ever", walls=walls, running_seconds=4)
    assert job.status in ("timed_out", "failed"), "the limit on processes or that on time, whichever is first"
    nothing_is_left(quick_sqlite)


@pytest.mark.parametrize("walls", [ALL, WITHOUT_NAMESPACES, WITHOUT_ANY])
def test_an_orphan_dies_with_the_attempt(model: Model, tmp_path: Path, walls: str) -> None:
    name = f"orphan-{tmp_path.name}"
    run(model, "leave_an_orphan", str(tmp_path / "pids"), name, walls=walls)
    assert [process for process in psutil.process_iter() if name in command_line(process)] == []


@pytest.mark.parametrize("kind", ["link", "folder link", "fifo", "socket"])
@pytest.mark.parametrize("way", ["bring", "store"])
def test_what_is_no_file_is_not_stored(
    model: Model, secret: Path, quick_sqlite: Settings, kind: str, way: str
) -> None:
    before = set(get_storage().digests())
    job = run(model, way, kind, str(secret))
    assert (job.status, problem_code(job)) == ("failed", "crashed")
    assert set(get_storage().digests()) == before
    assert rows(Artifact) == rows(StepResult) == []
    nothing_is_left(quick_sqlite)


def test_files_that_are_swapped_meanwhile(model: Model, secret: Path) -> None:
    run(model, "store_a_folder_that_is_swapped", str(secret), walls=WITHOUT_ANY)
    stored = [b"".join(get_storage().open(digest)) for digest in get_storage().digests()]
    assert SECRET.encode() not in stored


@pytest.mark.parametrize("way", ["bring", "store"])
def test_folders_that_are_nested_deeply(model: Model, quick_sqlite: Settings, way: str) -> None:
    job = run(model, way, "deep", "")
    assert job.status == "failed"
    assert problem_code(job) in ("crashed", "disk_full"), "whatever finds it first"
    nothing_is_left(quick_sqlite)


def test_folders_that_nobody_may_enter(model: Model, quick_sqlite: Settings) -> None:
    assert run(model, "lock_folders").status == "succeeded"
    nothing_is_left(quick_sqlite)


@pytest.mark.parametrize("kind", ["stages", "steps", "bytes"])
def test_a_flood(model: Model, quick_sqlite: Settings, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("workers.answers.MOST_WRITES", 50)
    monkeypatch.setattr("workers.answers.MOST_BYTES", 50_000_000)
    job = run(model, "flood", kind)
    assert (job.status, problem_code(job)) == ("failed", "crashed")
    assert job.problem is not None
    assert "more than 50" in job.problem["detail"]
    nothing_is_left(quick_sqlite)


def test_a_line_without_end(model: Model) -> None:
    job = run(model, "one_long_line")
    assert (job.status, problem_code(job)) == ("failed", "crashed")


def test_a_log_steers_no_terminal(model: Model) -> None:
    job = run(model, "print", "one\x1b[2J\x1b]0;title\x07\x9b31m\ttwo\x00\r\nthree")
    assert job.status == "succeeded"
    with transaction() as session:
        text = "".join(session.scalars(select(JobLog.text).order_by(JobLog.seq)))
    assert "one�[2J�]0;title��31m\ttwo�" in text
    assert "\x1b" not in job.progress["message"]


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_worker_refuses_to_start_without_walls(
    quick_sqlite: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from workers import worker

    found = {"runtimes": {}, "failed": {}, "hardware": {}, "sandbox": {"network": "namespace", "files": None}}
    monkeypatch.setattr(worker, "probe", lambda names: found)
    monkeypatch.setenv("BURNISH_REQUIRE_SANDBOX", "true")
    from app.config import get_settings

    get_settings.cache_clear()
    assert worker.main([], 1) == 1


def test_a_child_ends_where_a_wall_is_missing_that_was_required(
    model: Model, settings_of: Callable[..., Settings]
) -> None:
    settings_of(require_sandbox=True)
    assert run(model, "print", "hello").status == "succeeded"
    job = run(model, "print", "hello", walls=WITHOUT_ANY)
    assert problem_code(job) == "crashed"
    assert job.problem is not None
    assert "no wall here for: network, files" in job.problem["detail"]
