"""`python -m app.bootstrap KEY_FILE`: a database that is ready, and an admin key in a file that only its owner reads."""

import sys
from pathlib import Path

from app.auth.service import authenticate, create_key, ensure_default_project
from app.connection import write_private
from app.db import transaction
from app.migrate import upgrade


def bootstrap(key_file: Path) -> None:
    """Migrate, see to the default project, and to a key that opens it; a key that still works is kept."""
    upgrade()
    with transaction() as session:
        project = ensure_default_project(session)
        stored = key_file.read_text(encoding="utf-8").strip() if key_file.exists() else ""
        known = authenticate(session, stored)
        if known is not None and known[0].may("admin"):
            return
        _, secret = create_key(session, project.id, "burnish up", ["admin"])
        write_private(key_file, secret + "\n")


if __name__ == "__main__":
    bootstrap(Path(sys.argv[1]))
