"""The database's schema: bring it up to date, say where it is. The revisions are in `migrations/`."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import make_url

import migrations
from app.config import get_settings
from app.db import get_engine


def upgrade(revision: str = "head") -> None:
    """Bring the database to a revision; two processes may try at once. A missing SQLite file is created.

    Raises:
        alembic.util.CommandError: there is no such revision.
        sqlalchemy.exc.OperationalError: the database does not answer.
    """
    url = make_url(get_settings().resolved_database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    command.upgrade(_config(), revision)


def downgrade(revision: str) -> None:
    """Take the database back to an earlier revision, `base` for none. Rows that the later ones held are lost."""
    command.downgrade(_config(), revision)


def current() -> str | None:
    """The revision that the database is at, or None where it was never migrated."""
    with get_engine().connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest() -> str | None:
    """The revision that this Burnish needs."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def is_current() -> bool:
    """Whether the database is at the revision that this Burnish needs."""
    return current() == newest()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    return config
