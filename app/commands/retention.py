"""`burnish gc` and `burnish verify`: for whoever runs the installation, on the machine that has its database and store."""

import sys
from typing import Annotated

import typer

from app.commands.common import FAILED, JsonOption, own_database, print_json, print_rows, stdout, when

KINDS = {
    "kind": lambda row: row["kind"].replace("_", " "),
    "count": lambda row: row["count"],
    "MiB": lambda row: f"{row['size_bytes'] / 2**20:.1f}" if row["size_bytes"] else None,
}


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing: say what would go.")] = False,
    pause: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Remove nothing, and let nobody remove a stored file for so many hours, while you copy database and store; "
            "0 ends it.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what is kept no longer, and stored files that nothing refers to any more; safe while the service runs.

    What was stored within BURNISH_GC_GRACE_SECONDS stays. For the data of a `burnish up`, set BURNISH_DATA_DIR to its directory.
    """
    from app.retention import service

    if pause is not None:
        _pause(pause, as_json)
        return
    with own_database():
        report = service.collect(dry_run=dry_run).answer()
    if as_json:
        print_json(report)
        return
    rows = [{"kind": kind, **removed} for kind, removed in report["kinds"].items()]
    if some := [row for row in rows if row["count"] or row["size_bytes"]]:
        print_rows(KINDS, some)
    verb = "would remove" if dry_run else "removed"
    stdout().print(f"{verb} {report['files']} files, {report['size_bytes'] / 2**20:.1f} MiB")
    if report["paused_until"]:
        stdout().print(f"no file is removed before {when(report['paused_until'])}: paused for a backup")


def verify(
    quick: Annotated[
        bool, typer.Option("--quick", help="Only look whether the files are there; do not read them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Look whether every file that the database refers to is stored and unharmed; exit status 1 where one is not.

    For the data of a `burnish up`, set BURNISH_DATA_DIR to its directory.
    """
    from app.retention.verify import verify as look

    with own_database():
        found = look(read=not quick)
    faults = [
        {"digest": each.digest, "problem": each.problem, "used_by": each.used_by} for each in found.faults
    ]
    if as_json:
        print_json({"files": found.files, "faults": faults})
    else:
        columns = {
            name.replace("_", " "): (lambda row, name=name: row[name])
            for name in ("digest", "problem", "used_by")
        }
        if faults:
            print_rows(columns, faults)
        stdout().print(f"{found.files} files, {len(faults)} missing or damaged")
    if faults:
        sys.exit(FAILED)


def _pause(hours: float, as_json: bool) -> None:
    from app.db import transaction
    from app.retention import service

    with own_database(), transaction() as session:
        until = service.pause(session, hours).isoformat() if hours else None
        if not hours:
            service.resume(session)
    if as_json:
        print_json({"paused_until": until})
    else:
        stdout().print(
            f"no stored file is removed before {when(until)}" if until else "files are removed again"
        )
