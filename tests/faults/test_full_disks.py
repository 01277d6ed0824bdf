"""Disks that are full: a clear problem, nothing half-written, and all is well once there is space again."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.engine import make_url
from structlog.testing import capture_logs

from app.artifacts.tables import Artifact
from app.config import Settings
from app.db import transaction
from app.jobs.tables import Job
from app.main import create_app
from app.models.tables import Model
from tests.app.api.support import assert_problem, bearer, make_key
from tests.conftest import fill, installation
from tests.faults.disks import MIB, filled, small_disk
from tests.faults.parts import Postgres, ending, until
from tests.workers.conftest import add_job, add_model, problem_code, quicken, read_job, rows, run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 8) as folder:
        yield folder


@pytest.fixture
def apart(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An installation on SQLite, some of whose settings point to a disk of their own."""
    with ExitStack() as stack:

        def install(**settings: Path) -> Settings:
            for name, path in settings.items():
                monkeypatch.setenv(f"BURNISH_{name.upper()}", str(path))
            url = f"sqlite:///{tmp_path / 'burnish.db'}"
            fill(url)
            stack.enter_context(installation(url, redis_url, tmp_path, monkeypatch))
            return quicken(monkeypatch)

        yield install


@contextmanager
def client() -> Iterator[TestClient]:
    with (
        capture_logs(),  # whose tracebacks would show every local, uploads among them
        TestClient(create_app(), headers=bearer(make_key("admin"))) as api,
    ):
        yield api


def upload(api: TestClient, size: int, name: str = "m.onnx") -> Any:
    return api.post("/v1/models", files={"file": (name, b"\0" * size)})


def count(table: Any) -> int:
    with transaction(readonly=True) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_full_store_refuses_uploads_and_keeps_nothing(apart: Any, disk: Path) -> None:
    settings = apart(storage_dir=disk / "blobs")
    with client() as api:
        assert_problem(upload(api, 16 * MIB), 507, "disk_full")
        assert count(Model) == 0
        assert not [path for path in settings.blobs_path.rglob("*") if path.is_file()]
        assert upload(api, MIB).status_code == 201
        with filled(disk):
            assert_problem(upload(api, MIB), 507, "disk_full")
            assert api.get("/v1/models").status_code == 200
        assert upload(api, MIB + 1).status_code == 201


def test_a_full_store_fails_the_job_that_cannot_keep_its_result(
    apart: Any, disk: Path, tmp_path: Path
) -> None:
    apart(storage_dir=disk / "blobs")
    model = add_model(tmp_path)
    with filled(disk):
        job = run(add_job(model, [["artifacts", "x" * MIB]]))
        assert (job.status, problem_code(job)) == ("failed", "disk_full")
        assert job.problem is not None
        assert job.problem["retryable"]
        assert rows(Artifact) == []
    assert run(add_job(model, [["artifacts", "x" * MIB]])).status == "succeeded"


def test_a_full_scratch_disk_fails_the_job(apart: Any, disk: Path, tmp_path: Path) -> None:
    settings = apart(scratch_dir=disk / "scratch")
    model = add_model(tmp_path)
    settings.scratch_path.mkdir()
    with filled(disk):
        job = run(add_job(model, []))
        assert (job.status, problem_code(job)) == ("failed", "disk_full")
    assert run(add_job(model, [])).status == "succeeded"
    assert not list(settings.scratch_path.iterdir())


@contextmanager
def database_on(
    kind: str, disk: Path, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """An installation whose database is on a small disk; PostgreSQL keeps its log elsewhere, as it should be."""
    with ExitStack() as stack:
        if kind == "sqlite":
            url = f"sqlite:///{disk / 'burnish.db'}"
        else:
            postgres = Postgres(disk.parent)
            stack.enter_context(ending(postgres))
            postgres.start()
            engine = create_engine(postgres.url, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                space = disk / "space"
                space.mkdir(mode=0o700)
                postgres.own(space)
                connection.execute(text(f"CREATE TABLESPACE small LOCATION '{space}'"))
                connection.execute(text("CREATE DATABASE burnish TABLESPACE small"))
            engine.dispose()
            url = make_url(postgres.url).set(database="burnish").render_as_string(hide_password=False)
        fill(url)
        with installation(url, redis_url, tmp_path, monkeypatch):
            quicken(monkeypatch)
            yield


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_full_database_refuses_and_loses_nothing(
    kind: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        TemporaryDirectory(prefix="bpg") as folder,  # where PostgreSQL's user may look into
        small_disk(Path(folder) / "disk", 64 if kind == "postgresql" else 8) as disk,
        database_on(kind, disk, redis_url, tmp_path, monkeypatch),
        client() as api,
    ):
        model = add_model(tmp_path)
        finishing = add_job(model, [["sleep", 3], ["artifacts", "an engine"]])
        worker = threading.Thread(target=run, args=(finishing,))
        worker.start()
        until(lambda: read_job(finishing.id).status == "running")
        before = count(Model)
        with filled(disk):
            taken, refused = 0, 0
            for name in names():
                answer = api.post("/v1/models", files={"file": (name, b"abc"), "name": (None, name)})
                taken += answer.status_code == 201
                if answer.status_code != 201:
                    assert_problem(answer, 507, "disk_full")
                    refused += 1
                if refused == 3:
                    break
            assert refused == 3
            assert api.get("/v1/models").status_code == 200
            time.sleep(1)
        assert count(Model) == before + taken
        assert api.post("/v1/models", files={"file": ("again", b"abc")}).status_code == 201
        worker.join()
        # its lease may have ended meanwhile: then it waits for another attempt, and nothing of the first is there
        job = read_job(finishing.id)
        assert (job.status, count(Artifact)) in {("succeeded", 1), ("running", 0), ("queued", 0)}
        assert count(Job) == 1


def names() -> list[str]:
    """Names that fill a database's pages."""
    return [f"{number} {'n' * 190}" for number in range(4000)]
