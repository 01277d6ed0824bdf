"""`burnish usage` and `burnish audit`: what a project uses, and who changed what in it."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from app.commands.common import JsonOption, UrlOption, connect, print_json, print_rows, when
from app.commands.resources import LimitOption, print_fields

ProjectOption = Annotated[
    str | None,
    typer.Option(help="Another project's id; needs an admin key of the default project."),
]
AUDIT_COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "at": lambda row: when(row["at"]),
    "key": lambda row: row["key"],
    "action": lambda row: row["action"],
    "subject": lambda row: row["subject"],
    "detail": lambda row: row["detail"],
}


def usage(
    since: Annotated[
        str | None, typer.Option("--from", help="Count computing from here on; default: this month's start.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="… up to here; default: now.")] = None,
    project: ProjectOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the project holds beside what it may, and the seconds that its jobs ran.

    Times are RFC 3339, such as 2026-01-31T00:00:00Z.
    """
    with connect(url) as client:
        found = client.usage(**{"from": since, "to": until, "project": project})
    print_json(found) if as_json else print_fields(found)


def audit(
    action: Annotated[str | None, typer.Option(help="Only this action, such as job.cancelled.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only what was done to this id.")] = None,
    key: Annotated[str | None, typer.Option(help="Only what this key did.")] = None,
    limit: LimitOption = 50,
    project: ProjectOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who changed what in the project, newest first; needs an admin key."""
    with connect(url) as client:
        rows = client.list("audit", most=limit, action=action, subject=subject, key=key, project=project)
    print_json(rows) if as_json else print_rows(AUDIT_COLUMNS, rows)
