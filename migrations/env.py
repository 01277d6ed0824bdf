"""How Alembic reaches the database: the URL that the service uses, in one transaction, one process at a time."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import text
from sqlalchemy.engine import Connection

from app.config import get_settings
from app.db import Json, UtcDateTime, make_engine
from app.tables import metadata

LOCK = 0x6275726E697368  # "burnish": PostgreSQL's advisory locks are named by a number


def configure(**options: Any) -> None:
    """The same options for a run, for SQL text and for autogenerate."""
    context.configure(
        target_metadata=metadata,
        compare_type=True,
        render_as_batch=True,  # SQLite alters a table by copying it
        render_item=render_item,
        transactional_ddl=True,
        **options,
    )


def render_item(kind: str, item: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """Revisions name SQL types alone: what the service calls a type may change, a revision may not."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if item is Json:
        autogen_context.imports.add("from sqlalchemy.dialects import postgresql")
        return 'sa.JSON().with_variant(postgresql.JSONB(), "postgresql")'
    return False


def run_online() -> None:
    """Run the revisions, all or none."""
    engine = make_engine(get_settings().resolved_database_url, pooler=get_settings().database_pooler)
    try:
        with engine.connect() as connection:
            sqlite = connection.dialect.name == "sqlite"
            if sqlite:  # a table that is copied and dropped would take the rows that refer to it along
                _ignore_sqlite_references(connection)
            configure(connection=connection)
            with context.begin_transaction():
                if not sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
                context.run_migrations()
                if sqlite:
                    _check_sqlite_references(connection)
    finally:
        engine.dispose()


def run_offline() -> None:
    """Write the SQL in place of running it: `alembic upgrade head --sql`."""
    configure(
        url=get_settings().resolved_database_url, literal_binds=True, dialect_opts={"paramstyle": "named"}
    )
    with context.begin_transaction():
        context.run_migrations()


def _ignore_sqlite_references(connection: Connection) -> None:
    driver = connection.connection.dbapi_connection  # the pragma does nothing inside of a transaction
    assert driver is not None
    driver.execute("PRAGMA foreign_keys=OFF")


def _check_sqlite_references(connection: Connection) -> None:
    if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall():
        raise RuntimeError(f"the migration would leave rows that refer to nothing: {broken[:10]}")


if context.is_offline_mode():
    run_offline()
else:
    run_online()
