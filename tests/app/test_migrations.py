"""Migrations: up, down and up again on both databases, and equal to the tables."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import op
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy.exc import IntegrityError

from app import migrate
from app.auth.tables import DEFAULT_PROJECT
from app.config import Settings
from app.db import get_engine, make_engine
from app.tables import metadata
from tests.conftest import empty_postgres, installation


@pytest.fixture(params=["sqlite", "postgresql"])
def unmigrated(
    request: pytest.FixtureRequest, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """An installation whose database is empty; the SQLite file and its directory do not exist yet."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / '50% of it' / 'burnish.db'}"
        with installation(url, redis_url, tmp_path, monkeypatch) as settings:
            yield settings
        return
    with (
        empty_postgres(request.getfixturevalue("postgres_url")) as url,
        installation(url, redis_url, tmp_path, monkeypatch) as settings,
    ):
        yield settings


def tables() -> set[str]:
    return set(sa.inspect(get_engine()).get_table_names())


def differences() -> list[object]:
    """What autogenerate would write into a new revision."""
    with get_engine().connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))


@pytest.mark.usefixtures("unmigrated")
def test_up_down_and_up_again() -> None:
    for _ in range(2):
        migrate.upgrade()
        assert tables() == {*metadata.tables, "alembic_version"}
        assert migrate.is_current()
        with get_engine().connect() as connection:
            assert connection.execute(sa.text("SELECT id, name FROM projects")).all() == [
                (DEFAULT_PROJECT, "default")
            ]
        migrate.downgrade("base")
        assert tables() == {"alembic_version"}
        assert migrate.current() is None
        assert not migrate.is_current()


@pytest.mark.usefixtures("unmigrated")
def test_revisions_make_the_tables_that_the_service_has() -> None:
    migrate.upgrade()
    assert differences() == []


@pytest.mark.usefixtures("unmigrated")
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("DROP INDEX ix_jobs_status_lease_expires_at", "add_index"),
        ("ALTER TABLE jobs DROP COLUMN stage", "add_column"),
        ("ALTER TABLE jobs ADD COLUMN forgotten INTEGER", "remove_column"),
        ("DROP TABLE measurements", "add_table"),
    ],
)
def test_a_difference_would_be_found(change: str, expected: str) -> None:
    migrate.upgrade()
    with get_engine().begin() as connection:
        connection.execute(sa.text(change))
    found = [entry[0] for entry in differences()]  # type: ignore[index]
    assert found[0] == expected


def test_a_type_that_differs_would_be_found(burnish: Settings) -> None:
    with get_engine().begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.execute(sa.text("ALTER TABLE models DROP COLUMN facts"))
            connection.execute(sa.text("ALTER TABLE models ADD COLUMN facts VARCHAR(10)"))
        else:
            connection.execute(sa.text("ALTER TABLE models ALTER COLUMN facts TYPE VARCHAR(10)"))
    assert "modify_type" in str(differences())


@pytest.mark.usefixtures("unmigrated")
def test_two_processes_may_migrate_at_once() -> None:
    with ThreadPoolExecutor(4) as pool:
        # alembic's `context` belongs to a process, so the threads only start processes
        codes = list(pool.map(lambda _: _migrate_elsewhere(), range(4)))
    assert codes == [0] * 4
    assert migrate.is_current()


def _migrate_elsewhere() -> int:
    return subprocess.run(
        [sys.executable, "-c", "from app.migrate import upgrade; upgrade()"], timeout=120
    ).returncode


@pytest.mark.usefixtures("unmigrated")
def test_a_revision_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the second revision fails")

    monkeypatch.setattr(op, "bulk_insert", fail)
    with pytest.raises(RuntimeError, match="second revision"):
        migrate.upgrade()
    assert tables() <= {"alembic_version"}


def test_a_migrated_database_holds_its_foreign_keys(unmigrated: Settings) -> None:
    migrate.upgrade()
    engine = make_engine(unmigrated.resolved_database_url)
    orphan = sa.text(
        "INSERT INTO events (subject_id, seq, project_id, type, data, created_at)"
        " VALUES ('job_1', 1, 'prj_none', 'job', '{}', CURRENT_TIMESTAMP)"
    )
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(orphan)
    engine.dispose()


@pytest.mark.usefixtures("unmigrated")
def test_an_unknown_revision_is_an_error() -> None:
    with pytest.raises(CommandError, match="9999"):
        migrate.upgrade("9999")
