"""Installations whose parts fail: each test has a database of its own, and quick leases."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from app.config import Settings
from tests.conftest import fresh_postgres, installation
from tests.faults.jobs import Start, entered
from tests.faults.parts import Program, ending, until
from tests.faults.proxy import Proxy, proxied
from tests.faults.site import Site, installed
from tests.workers.conftest import quicken


@pytest.fixture
def on_postgres(
    request: pytest.FixtureRequest, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """PostgreSQL, which gives up on what does not answer within a second."""
    monkeypatch.setenv("BURNISH_DATABASE_SECONDS", "1")
    with fresh_postgres(request) as url, installation(url, redis_url, tmp_path, monkeypatch):
        yield quicken(monkeypatch)


@pytest.fixture
def database_line(on_postgres: Settings) -> Iterator[tuple[Proxy, str]]:
    """A line to the test's PostgreSQL that can be cut, and the database's URL behind it."""
    url = make_url(on_postgres.database_url)
    with proxied(Path(str(url.query["host"])) / ".s.PGSQL.5432") as proxy:
        behind = url.set(host="127.0.0.1", port=proxy.port, query={})
        yield proxy, behind.render_as_string(hide_password=False)


@pytest.fixture
def broker_line(on_postgres: Settings) -> Iterator[tuple[Proxy, str]]:
    """A line to the broker that can be cut, and the broker's URL behind it."""
    url = make_url(on_postgres.redis_url)
    assert url.host is not None
    assert url.port is not None
    with proxied((url.host, url.port)) as proxy:
        yield proxy, f"redis://127.0.0.1:{proxy.port}/0"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An installation on servers of its own, all of whose processes run."""
    with installed(tmp_path) as site:
        yield site


@pytest.fixture
def start(on_postgres: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts workers whose children do as they are told, with other settings than the test's perhaps."""
    with ExitStack() as stack:
        count = 0

        def begin(concurrency: int = 1, **settings: str) -> Program:
            nonlocal count
            count += 1
            more = {f"BURNISH_{name.upper()}": value for name, value in settings.items()}
            program = Program(
                f"worker {count}",
                (sys.executable, "-m", "tests.workers.fake_worker", str(concurrency)),
                {**os.environ, **more},
                tmp_path / f"worker-{count}.log",
            )
            stack.enter_context(ending(program))
            program.start()
            until(lambda: entered(program.pid))
            return program

        yield begin
