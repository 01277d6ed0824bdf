"""The database: engine, base class, and `transaction()`, the only place that commits."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar

import structlog
from sqlalchemy import JSON, DateTime, Engine, Float, MetaData, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator

from app.config import get_settings

log = structlog.get_logger(__name__)

DISK_FULL_STATE = "53100"  # PostgreSQL, appendix A: disk_full

QUIET: dict[str, Any] = {"hide_parameters": True}  # an error's text goes to the log: it quotes no row

_serving = False

Json = JSON().with_variant(JSONB(), "postgresql")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time on both databases; SQLite alone would drop the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone reached the database")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class db_now(FunctionElement[datetime]):  # noqa: N801 - reads as an SQL function
    """The database's clock plus an offset in seconds: one clock for every machine, so skew between hosts cannot end a lease."""

    type = UtcDateTime()
    inherit_cache = False

    def __init__(self, offset_seconds: float = 0.0):
        self.offset_seconds = float(offset_seconds)
        super().__init__()


@compiles(db_now, "postgresql")
def _db_now_postgresql(element: db_now, compiler: Any, **kw: Any) -> str:
    return f"(clock_timestamp() + interval '{element.offset_seconds:.3f} seconds')"


@compiles(db_now, "sqlite")
def _db_now_sqlite(element: db_now, compiler: Any, **kw: Any) -> str:
    # six digits, as SQLAlchemy writes times on SQLite, so that text order is time order
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '{element.offset_seconds:+.3f} seconds')"


class Base(DeclarativeBase):
    """The base of every table."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime(),
        dict[str, Any]: Json,
        list[Any]: Json,
        list[str]: Json,
        float: Float(53),
    }


def make_engine(url: str, answer_seconds: float = 0.0, *, pooler: bool = False) -> Engine:
    """An engine for PostgreSQL or SQLite; SQLite gets WAL, a busy timeout and foreign keys.

    `answer_seconds`: how long PostgreSQL may take for one answer before its connection is given up; 0: for ever. `pooler`: see
    `Settings.database_pooler`.
    """
    if not url.startswith("sqlite"):
        return _make_postgresql(url, answer_seconds, pooler)
    engine = create_engine(url, connect_args={"timeout": 30, "check_same_thread": False}, **QUIET)

    @event.listens_for(engine, "connect")
    def _connect(dbapi_connection: Any, record: Any) -> None:
        dbapi_connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
            dbapi_connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # a transaction that reads first and writes later cannot wait for the lock on SQLite: take it at once
        readonly = connection.get_execution_options().get("burnish_readonly", False)
        connection.exec_driver_sql("BEGIN DEFERRED" if readonly else "BEGIN IMMEDIATE")

    return engine


def _make_postgresql(url: str, answer_seconds: float, pooler: bool) -> Engine:
    more: dict[str, Any] = {"pool_timeout": answer_seconds} if answer_seconds else {}
    if pooler:
        more["connect_args"] = {"prepare_threshold": None}
    engine = create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20, **more, **QUIET)
    if answer_seconds:
        from app.postgres import connect, limits  # where PostgreSQL is not used, its driver need not be there

        @event.listens_for(engine, "do_connect")
        def _connect(dialect: Any, record: Any, args: list[Any], parameters: dict[str, Any]) -> Any:
            return connect(answer_seconds, *args, pooler=pooler, **parameters)

        if pooler:

            @event.listens_for(engine, "begin")
            def _begin(connection: Connection) -> None:
                for name, value in limits(answer_seconds).items():
                    connection.exec_driver_sql(f"SET LOCAL {name} = {value}")

    return engine


@lru_cache
def get_engine() -> Engine:
    """The engine of this process."""
    settings = get_settings()
    return make_engine(
        settings.resolved_database_url,
        settings.database_seconds if _serving else 0.0,
        pooler=settings.database_pooler,
    )


def bound_waits() -> None:
    """This process serves others, and waits for no answer of PostgreSQL longer than BURNISH_DATABASE_SECONDS.

    Commands call it not: what they ask may take its time.
    """
    global _serving
    _serving = True
    get_engine.cache_clear()


def is_full(error: DBAPIError) -> bool:
    """Whether the database's disk has no space left."""
    full: int = sqlite3.SQLITE_FULL
    return (
        getattr(error.orig, "sqlite_errorcode", None) == full
        or getattr(error.orig, "sqlstate", None) == DISK_FULL_STATE
    )


@contextmanager
def transaction(*, readonly: bool = False) -> Iterator[Session]:
    """One unit of work: commits on leaving, rolls back on an error, then runs what `after_commit` was given."""
    with Session(get_engine(), expire_on_commit=False) as session:
        if readonly:
            session.connection(execution_options={"burnish_readonly": True})
        yield session
        if readonly:
            session.rollback()
            return
        session.commit()
        for action in session.info.pop("after_commit", []):
            try:
                action()
            except Exception:  # the database is the truth: the sweep rings again
                log.warning("after_commit_failed", action=getattr(action, "__qualname__", "?"), exc_info=True)


def upsert(session: Session, table: type[Base]) -> Any:
    """An `insert` of this database's dialect: both know `on_conflict_do_update` and `on_conflict_do_nothing`."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def after_commit(session: Session, action: Callable[[], None]) -> None:
    """Run `action` once this session's transaction is committed; never, if it is rolled back."""
    session.info.setdefault("after_commit", []).append(action)


def write_session() -> Iterator[Session]:
    """FastAPI dependency (`scope="function"`: it commits before the answer leaves)."""
    with transaction() as session:
        yield session


def read_session() -> Iterator[Session]:
    """FastAPI dependency for routes that only read."""
    with transaction(readonly=True) as session:
        yield session
