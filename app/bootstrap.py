"""`python -m app.bootstrap KEY_FILE`: a database that is ready, and an admin key in a file that only its owner reads.

`burnish up` runs it alone on its data directory, before its workers start: what an earlier run held, nobody holds.
"""

import sys
from pathlib import Path

import app.tables  # noqa: F401 - every table, before the first row is read
from app import inspections
from app.auth.service import authenticate, create_key, ensure_default_project
from app.config import get_settings
from app.connection import write_private
from app.datasets.tables import Dataset
from app.db import transaction
from app.fleet import service as fleet
from app.jobs import lease
from app.migrate import upgrade
from app.models.tables import Model


def bootstrap(key_file: Path) -> None:
    """Migrate, see to the default project, and to a key that opens it; a key that still works is kept.

    Where an earlier run was killed, its jobs go on at once and do not wait for their leases to end.
    """
    upgrade()
    _recover()
    with transaction() as session:
        project = ensure_default_project(session)
        stored = key_file.read_text(encoding="utf-8").strip() if key_file.exists() else ""
        known = authenticate(session, stored)
        if known is not None and known[0].may("admin"):
            return
        _, secret = create_key(session, project.id, "burnish up", ["admin"])
        write_private(key_file, secret + "\n")


def _recover() -> None:
    with transaction() as session:
        fleet.abandon(session)
        lease.abandon(session, get_settings().max_attempts)
        for table in (Model, Dataset):
            inspections.abandon(session, table)


if __name__ == "__main__":
    bootstrap(Path(sys.argv[1]))
