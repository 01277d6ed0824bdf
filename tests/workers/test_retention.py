"""The collector beside workers: a step that goes is done again, and nothing that a job needs goes."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select, update

from app import uploaded
from app.auth.tables import DEFAULT_PROJECT, Project
from app.config import Settings
from app.db import db_now, transaction
from app.jobs.tables import StepResult
from app.models.tables import Model
from app.retention import service
from app.retention.verify import verify
from app.storage import DiskStorage, get_storage
from tests.app.jobs.factories import make_model, sha
from tests.workers.conftest import FAKE_CHILD, add_job, add_model, read_job, run
from workers import supervisor
from workers.answers import Answers

KEY = "a" * 64


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_hit_is_a_use(model: Model, tmp_path: Path) -> None:
    script = [["step", "one", KEY, str(tmp_path / "done")]]
    run(add_job(model, script))
    with transaction() as session:
        session.execute(update(StepResult).values(last_used_at=db_now(-1000)))
    run(add_job(model, script))
    assert lines(tmp_path / "done") == 1
    with transaction(readonly=True) as session:
        assert session.scalar(select(StepResult.last_used_at > db_now(-500)))


def test_a_step_whose_file_is_gone_is_done_again(model: Model, tmp_path: Path) -> None:
    script = [["step", "one", KEY, str(tmp_path / "done")]]
    run(add_job(model, script))
    with transaction(readonly=True) as session:
        tree = session.scalars(select(StepResult.digest)).one()
    get_storage().delete(get_storage().tree(tree)[0].digest)
    assert run(add_job(model, script)).status == "succeeded"
    assert lines(tmp_path / "done") == 2
    assert verify().faults == []


@pytest.mark.usefixtures("quick_sqlite")
@pytest.mark.parametrize("moment", range(1, 5))
def test_a_step_that_goes_while_it_is_laid_out_is_no_hit(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector removes each file, the tree's text first, just after it was found and before it is opened or linked."""
    (tmp_path / "tree").mkdir()
    for number in range(3):
        (tmp_path / "tree" / str(number)).write_text(str(number))
    tree = get_storage().put_tree(tmp_path / "tree").digest
    found_path, seen = DiskStorage.path, []

    def path(self: DiskStorage, digest: str) -> Path:
        found = found_path(self, digest)
        seen.append(digest)
        if len(seen) == moment:
            assert self.delete(digest) is not None
        return found

    monkeypatch.setattr(DiskStorage, "path", path)
    answers: Any = SimpleNamespace(_scratch=tmp_path / "work")
    into = tmp_path / "cached" / tree
    assert not Answers._lay_out(answers, tree)
    assert len(seen) == moment
    assert not into.exists()
    assert not into.with_suffix(".partial").exists()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_collecting_all_the_time_breaks_nothing(
    quick: Settings, settings_of: Callable[..., Settings], tmp_path: Path
) -> None:
    """Jobs that share steps, and the same files uploaded and deleted again and again, while the collector never rests."""
    settings_of(gc_grace_seconds=3)
    model = add_model(tmp_path)
    with transaction() as session:
        session.execute(update(Project).values(keep_steps_bytes=1, keep_jobs_days=1))
    over = threading.Event()
    enough = time.monotonic() + 8  # some files are older than the grace then

    def collect() -> int:
        files = 0
        while not over.is_set():
            files += service.collect().files
        return files

    def upload() -> int:
        turns = 0
        while not over.wait(0.05):
            digest = get_storage().put([b"the same bytes each time"]).digest
            id_ = make_model(upload_digest=digest, digest=None)
            assert get_storage().exists(digest)
            with transaction() as session:
                uploaded.remove(session, Model, DEFAULT_PROJECT, id_)
            turns += 1
        return turns

    def work(number: int) -> list[Any]:
        done: list[Any] = []
        while len(done) < 4 or time.monotonic() < enough:
            turn = len(done)
            script = [
                ["step", name, sha(name), str(tmp_path / "done")]
                for name in ("one", "two", f"{number}{turn}")
            ]
            job = add_job(model, [*script, ["artifacts", f"{number} {turn}"]])
            supervisor.run(job.id, FAKE_CHILD)
            done.append(job)
        return done

    with ThreadPoolExecutor(5) as pool, _set_in_the_end(over):
        loops = [pool.submit(collect), pool.submit(collect), pool.submit(upload)]
        jobs = [job for each in pool.map(work, range(2)) for job in each]
        over.set()
        first, second, turns = (loop.result() for loop in loops)
        assert first + second > 0
        assert turns > 0
    ended = [read_job(job.id) for job in jobs]
    assert [job.status for job in ended] == ["succeeded"] * len(jobs), [job.problem for job in ended]
    assert {job.attempt for job in ended} == {1}
    assert verify().faults == []


@contextlib.contextmanager
def _set_in_the_end(event: threading.Event) -> Iterator[None]:
    try:
        yield
    finally:
        event.set()
