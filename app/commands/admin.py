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

from app.commands.common import (
    USAGE,
    Failure,
    JsonOption,
    own_database,
    print_json,
    print_rows,
    stderr,
    stdout,
    when,
)
from app.commands.resources import print_fields
from app.commands.signing import signing
from app.errors import BurnishError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from app.http.paging import PageQuery

DEFAULT_PROJECT = "prj_default"
DEFAULT_LIMIT = -1  # on the command line, for "as the installation says"

keys = typer.Typer(no_args_is_help=True, help="API keys, on the database of this installation.")
keys.add_typer(signing, name="signing")
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
    "stored": lambda row: row["max_stored_bytes"],
    "queued": lambda row: row["max_queued_jobs"],
    "running": lambda row: row["max_running_jobs"],
    "requests": lambda row: row["max_requests_per_minute"],
    "created": lambda row: when(row["created_at"]),
}


def _limit(what: str) -> Any:
    return typer.Option(
        metavar="N|default",
        help=f"{what}; 0: no limit, `default`: as the installation says.",
        parser=_read_limit,
    )


def _read_limit(text: str) -> int:
    """A limit; `DEFAULT_LIMIT` stands for the installation's own."""
    if text == "default":
        return DEFAULT_LIMIT
    if not text.isdecimal():
        raise typer.BadParameter("a number, or `default`")
    return int(text)


StoredOption = Annotated[int | None, _limit("Most bytes stored")]
QueuedOption = Annotated[int | None, _limit("Most jobs that wait")]
RunningOption = Annotated[int | None, _limit("Most jobs that run at once")]
RequestsOption = Annotated[int | None, _limit("Most requests of each key in a minute")]
KeepDaysOption = Annotated[int | None, _limit("Days that finished jobs are kept")]
KeepStepsOption = Annotated[int | None, _limit("Most bytes of stored steps that are kept")]
ProjectArgument = Annotated[str, typer.Argument(metavar="PROJECT", help="The project's id.")]


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
    expires: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"],
            help="When it stops working, UTC where nothing else is said; in place of --days.",
        ),
    ] = None,
    project: ProjectOption = DEFAULT_PROJECT,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. Its secret is shown this once, on standard output alone."""
    if days is not None and expires is not None:
        raise Failure("give --days or --expires, not both", status=USAGE)
    with database(data) as session:
        from app.auth import service
        from app.auth.schemas import KeyAnswer

        expires_at = datetime.now(UTC) + timedelta(days=days) if days is not None else expires
        if expires_at is not None and expires_at.tzinfo is None:
            expires_at = expires_at.replace(tzinfo=UTC)
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
    max_stored_bytes: StoredOption = None,
    max_queued_jobs: QueuedOption = None,
    max_running_jobs: RunningOption = None,
    max_requests_per_minute: RequestsOption = None,
    keep_jobs_days: KeepDaysOption = None,
    keep_steps_bytes: KeepStepsOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a project: models, jobs, keys and limits of its own."""
    limits = _given(
        max_stored_bytes=max_stored_bytes,
        max_queued_jobs=max_queued_jobs,
        max_running_jobs=max_running_jobs,
        max_requests_per_minute=max_requests_per_minute,
        keep_jobs_days=keep_jobs_days,
        keep_steps_bytes=keep_steps_bytes,
    )
    with database(data) as session:
        from app.auth import service

        row = _project_row(service.create_project(session, name, **limits))
    print_json(row) if as_json else stdout().print(row["id"])


@projects.command("show")
def show_project(project: ProjectArgument, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show a project: its limits, what it uses, and what it had computed this month."""
    with database(data) as session:
        from app.auth import service
        from app.auth.schemas import UsageAnswer
        from app.auth.usage import usage

        row = _project_row(service.get_project(session, project))
        used = UsageAnswer.model_validate(usage(session, project)).model_dump(mode="json", by_alias=True)
        row["usage"] = {name: value for name, value in used.items() if name != "project"}
    print_json(row) if as_json else print_fields(row)


@projects.command("set")
def set_project(
    project: ProjectArgument,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    max_stored_bytes: StoredOption = None,
    max_queued_jobs: QueuedOption = None,
    max_running_jobs: RunningOption = None,
    max_requests_per_minute: RequestsOption = None,
    keep_jobs_days: KeepDaysOption = None,
    keep_steps_bytes: KeepStepsOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a project's name or limits; what is not given stays as it is."""
    changes = _given(
        max_stored_bytes=max_stored_bytes,
        max_queued_jobs=max_queued_jobs,
        max_running_jobs=max_running_jobs,
        max_requests_per_minute=max_requests_per_minute,
        keep_jobs_days=keep_jobs_days,
        keep_steps_bytes=keep_steps_bytes,
    )
    with database(data) as session:
        from app.auth import service

        named = {} if name is None else {"name": name}
        row = _project_row(service.update_project(session, project, {**named, **changes}))
    print_json(row) if as_json else print_fields(row)


@projects.command("delete")
def delete_project(project: ProjectArgument, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Delete an empty project with its keys."""
    with database(data) as session:
        from app.auth import service

        service.delete_project(session, project)
    print_json({"deleted": project}) if as_json else stdout().print(f"deleted {project}")


def _given(**limits: int | None) -> dict[str, int | None]:
    """The limits that were named; None: the installation's."""
    return {
        name: None if value == DEFAULT_LIMIT else value for name, value in limits.items() if value is not None
    }


def _project_row(project: Any) -> dict[str, Any]:
    from app.auth.schemas import ProjectAnswer

    return ProjectAnswer.model_validate(project).model_dump(mode="json")


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
    import app.tables  # noqa: F401 - every table, before the first row is read
    from app.db import transaction

    try:
        with own_database(), transaction() as session:
            yield session
    except BurnishError as error:
        raise Failure(error.detail, hint=error.hint) from error


def pages(page_of: Callable[["PageQuery"], tuple[list[Any], str | None]]) -> list[Any]:
    """The rows of every page."""
    from app.http.paging import PageQuery

    rows, cursor = page_of(PageQuery(limit=200))
    while cursor is not None:
        more, cursor = page_of(PageQuery(limit=200, cursor=cursor))
        rows += more
    return rows
