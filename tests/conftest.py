"""What every test may ask for: real servers, and a Burnish of its own on a fresh data directory."""

import gc
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

import app.tables
from app.auth.tables import DEFAULT_PROJECT, Project
from app.config import Settings, get_settings
from app.db import get_engine, make_engine
from app.http.rates import get_rates
from app.ids import new_id
from app.queue import get_celery
from app.redaction import get_redactor
from app.storage import get_storage
from app.storage.s3 import S3Storage
from tests.services import running_postgres, running_redis, running_s3
from tests.turns import side_by_side, turn

os.environ["BURNISH_RUNTIMES"] = "onnxruntime-cpu"  # trying all of them when a worker starts takes long
os.environ["OMP_WAIT_POLICY"] = "passive"  # tests run side by side: none shall spin while it waits
# what the tests start is not asked how fast it is
os.environ["BURNISH_MEASURE_SECONDS"] = "1"
os.environ["BURNISH_MEASURE_LAUNCHES"] = "2"


def pytest_xdist_auto_num_workers() -> int:
    """Processes for `--numprocesses logical`: tests wait for others a quarter of their time, so one more than there are CPUs."""
    from workers.measure.processors import allowed_cpus

    return len(allowed_cpus()) + 1


@pytest.fixture(autouse=True)
def _turn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where tests run side by side, one that is marked `alone` waits until the others are done, and they for it."""
    if not side_by_side():
        yield
        return
    alone = request.node.get_closest_marker("alone") is not None
    with turn(tmp_path_factory.getbasetemp().parent, alone=alone):
        yield


@pytest.fixture(scope="module", autouse=True)
def _what_stays() -> None:
    """What is there when a file's tests begin mostly stays: a collection of all that torch and others have made takes
    seconds, and libraries ask for one again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis, shared by the session."""
    with running_redis() as url:
        yield url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A real S3-compatible server, shared by the session."""
    with running_s3() as url:
        yield url


@pytest.fixture
def s3(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new bucket on it, which this process's settings name, and what it starts; yields the bucket's name."""
    bucket = new_id("tests").replace("_", "-")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "a secret of the tests",
        "AWS_EC2_METADATA_DISABLED": "true",
        "BURNISH_STORAGE_URL": f"s3://{bucket}/a/prefix",
        "BURNISH_S3_ENDPOINT": s3_server,
        "BURNISH_S3_REGION": "us-east-1",
        "BURNISH_STORAGE_CACHE_DIR": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    forget_process_state()
    storage = get_storage()
    assert isinstance(storage, S3Storage)
    storage.bucket.client.create_bucket(Bucket=bucket)
    yield bucket
    forget_process_state()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL, shared by the session; its socket needs a short path."""
    with tempfile.TemporaryDirectory(prefix="bpg") as folder, running_postgres(Path(folder)) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> str:
    """A database whose tables exist; copying it is faster than making them."""
    name = "burnish_template"
    _administer(postgres_url, f"CREATE DATABASE {name}")
    fill(str(make_url(postgres_url).set(database=name).render_as_string(hide_password=False)))
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database with every table and the default project, once on each kind."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'burnish.db'}"
        fill(url)
        yield url
        return
    with fresh_postgres(request) as url:
        yield url


@contextmanager
def fresh_postgres(request: pytest.FixtureRequest) -> Iterator[str]:
    """A copy of the template database, dropped in the end."""
    template = request.getfixturevalue("postgres_template")
    with empty_postgres(request.getfixturevalue("postgres_url"), template) as url:
        yield url


@contextmanager
def empty_postgres(server: str, template: str = "template1") -> Iterator[str]:
    """A database like the template (PostgreSQL's own holds nothing), dropped in the end."""
    name = new_id("db")
    _administer(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def burnish(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """Settings of a fresh installation, on both databases in turn."""
    with installation(database_url, redis_url, tmp_path, monkeypatch) as settings:
        yield settings


@pytest.fixture
def burnish_sqlite(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The same on SQLite alone, where the database is not what is tested."""
    url = f"sqlite:///{tmp_path / 'burnish.db'}"
    fill(url)
    with installation(url, redis_url, tmp_path, monkeypatch) as settings:
        yield settings


@contextmanager
def installation(
    database_url: str, redis_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """This process reads its settings anew; messages of earlier tests are gone."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    monkeypatch.setenv("BURNISH_DATA_DIR", str(folder / "data"))
    monkeypatch.setenv("BURNISH_DATABASE_URL", database_url)
    monkeypatch.setenv("BURNISH_REDIS_URL", redis_url)
    forget_process_state()
    try:
        yield get_settings()
    finally:
        get_engine().dispose()
        get_celery().close()
        if get_rates.cache_info().currsize:
            get_rates().close()
        forget_process_state()


def forget_process_state() -> None:
    """What this process made once from its settings."""
    for cached in (get_settings, get_engine, get_storage, get_celery, get_rates, get_redactor):
        cached.cache_clear()


def fill(url: str) -> None:
    """Create every table and the default project."""
    engine = make_engine(url)
    app.tables.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Project(id=DEFAULT_PROJECT, name="default"))
        session.commit()
    engine.dispose()


def _administer(url: str, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
