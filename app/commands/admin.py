"""`burnish keys` and `burnish projects`: for the administrator, on the machine that has the database.

They work on the database that BURNISH_DATABASE_URL (or the data directory) names and not over HTTP: the first key
must come from somewhere.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.common import FAILED, Failure, JsonOption, print_json, print_rows, stderr, stdout, when
from app.errors import BurnishError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from app.http.paging import PageQuery

DEFAULT_PROJECT = "prj_default"

keys = typer.Typer(no_args_is_help=True, help="API keys, on the database of this installation.")
projects = typer.Typer(no_args_is_help=True, help="Projects, on the database of this installation.")

ProjectOption = Annotated[str, typer.Option(help="Whose keys: a project's id.")]
DataOption = Annotated[
    Path | None,
    typer.Option(
        file_okay=False, exists=True, help="The data directory of a `burnish up`. Default: the settings."
    ),
]
KEY_COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "id": lambda row: row["id"],
    "name": lambda row: row["name"],
    "scopes": lambda row: row["scopes"],
    "created": lambda row: when(row["created_at"]),
    "expires": lambda row: when(row["expires_at"]),
    "revoked": lambda row: when(row["revoked_at"]),
    "last used": lambda row: when(row["last_used_at"]),
}
PROJECT_COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "id": lambda row: row["id"],
    "name": lambda row: row["name"],
    "created": lambda row: when(row["created_at"]),
}


class Scope(StrEnum):
    """What a key may do; each includes those before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    scope: Annotated[
        Scope, typer.Option(help="What it may do; write includes read, admin includes both.")
    ] = Scope.WRITE,
    days: Annotated[
        float | None, typer.Option(min=0, help="Days until it stops working. Default: never.")
    ] = None,
    project: ProjectOption = DEFAULT_PROJECT,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. Its secret is shown this once, on standard output alone."""
    with database(data) as session:
        from app.auth import service
        from app.auth.schemas import KeyAnswer

        expires_at = datetime.now(UTC) + timedelta(days=days) if days is not None else None
        key, secret = service.create_key(session, project, name, [scope.value], expires_at)
        session.flush()
        session.refresh(key)
        row = KeyAnswer.model_validate(key).model_dump(mode="json")
    if as_json:
        print_json({**row, "secret": secret})
        return
    stdout().print(secret, markup=False, soft_wrap=True)
    stderr().print(f"{row['id']}: keep it; it cannot be shown again", soft_wrap=True)


@keys.command("list")
def list_keys(
    project: ProjectOption = DEFAULT_PROJECT, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """List a project's keys, revoked ones included."""
    with database(data) as session:
        from app.auth import service
        from app.auth.schemas import KeyAnswer

        found = pages(lambda page: service.list_keys(session, project, page))
        rows = [KeyAnswer.model_validate(key).model_dump(mode="json") for key in found]
    print_json(rows) if as_json else print_rows(KEY_COLUMNS, rows)


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id, not its secret.")],
    project: ProjectOption = DEFAULT_PROJECT,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a key open nothing from now on."""
    with database(data) as session:
        from app.auth import service

        service.revoke_key(session, project, key)
    print_json({"revoked": key}) if as_json else stdout().print(f"revoked {key}")


@projects.command("create")
def create_project(
    name: Annotated[str, typer.Argument(help="Unique within the installation.")],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a project: models, jobs and keys of its own."""
    with database(data) as session:
        from app.auth import service
        from app.auth.schemas import ProjectAnswer

        project = service.create_project(session, name)
        session.refresh(project)
        row = ProjectAnswer.model_validate(project).model_dump(mode="json")
    print_json(row) if as_json else stdout().print(row["id"])


@projects.command("list")
def list_projects(data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the projects."""
    with database(data) as session:
        from app.auth import service
        from app.auth.schemas import ProjectAnswer

        found = pages(lambda page: service.list_projects(session, page))
        rows = [ProjectAnswer.model_validate(project).model_dump(mode="json") for project in found]
    print_json(rows) if as_json else print_rows(PROJECT_COLUMNS, rows)


@contextmanager
def database(data: Path | None) -> Iterator["Session"]:
    """A transaction on this installation's database.

    Raises:
        Failure: it cannot be opened, or refuses what was asked.
    """
    if data is not None:
        os.environ["BURNISH_DATA_DIR"] = str(data)
    from sqlalchemy.exc import OperationalError, ProgrammingError

    from app.db import transaction

    try:
        with transaction() as session:
            yield session
    except BurnishError as error:
        raise Failure(error.detail, hint=error.hint) from error
    except (OperationalError, ProgrammingError) as error:
        raise Failure(
            f"the database cannot be used: {error.orig}",
            hint="is BURNISH_DATABASE_URL or --data right, and has `burnish migrate` been run?",
            status=FAILED,
        ) from error


def pages(page_of: Callable[["PageQuery"], tuple[list[Any], str | None]]) -> list[Any]:
    """The rows of every page."""
    from app.http.paging import PageQuery

    rows, cursor = page_of(PageQuery(limit=200))
    while cursor is not None:
        more, cursor = page_of(PageQuery(limit=200, cursor=cursor))
        rows += more
    return rows
