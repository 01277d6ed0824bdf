"""What every command shares: options, consoles, exit statuses, and how an error is shown."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.client import ApiProblem, Client, Unreachable
from app.connection import NoConnection
from app.downloads import DamagedDownload
from app.text import plain

PIPE_COLUMNS = 240
SHORT_CELL = 26  # an id's length and some: such cells are never broken

DONE, FAILED, USAGE, NO_SERVICE, INTERRUPTED = 0, 1, 2, 3, 130

UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="The service. Default: BURNISH_URL, else what the last `burnish up` wrote."),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Unpack into a directory that holds other things too.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, for programs.")]


class Failure(Exception):
    """A command that cannot do what it was asked; shown without a traceback."""

    def __init__(self, detail: str, *, hint: str | None = None, status: int = FAILED):
        super().__init__(detail)
        self.hint = hint
        self.status = status


@contextmanager
def own_database() -> Iterator[None]:
    """The block uses this installation's database itself.

    Raises:
        Failure: the database cannot be opened, or has not the tables.
    """
    from sqlalchemy.exc import OperationalError, ProgrammingError

    try:
        yield
    except (OperationalError, ProgrammingError) as error:
        raise Failure(
            f"the database cannot be used: {error.orig}",
            hint="is BURNISH_DATABASE_URL, or the data directory (BURNISH_DATA_DIR, --data), right, "
            "and has `burnish migrate` been run?",
        ) from error


def stdout() -> Console:
    """The console for results; in a pipe lines are as long as they are."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)


def stderr() -> Console:
    """The console for progress and errors: results stay clean in pipes."""
    return Console(stderr=True, highlight=False)


def connect(url: str | None) -> Client:
    """A client for the service that the command line, the environment or the last `burnish up` names."""
    return Client.discover(url)


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_rows(
    columns: Mapping[str, Callable[[dict[str, Any]], Any]], rows: Iterable[dict[str, Any]]
) -> None:
    """A table: heading -> what to show of a row."""
    cells = [[shown(show(row)) for show in columns.values()] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(columns):
        longest = max((len(line[number]) for line in cells), default=0)
        table.add_column(heading, overflow="fold", no_wrap=longest <= SHORT_CELL)
    for line in cells:
        table.add_row(*map(escape, line))
    stdout().print(table)


def when(time: str | None) -> str | None:
    """A time of the service (RFC 3339, UTC) to the minute, in this machine's zone."""
    return None if time is None else datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M")


def shown(value: Any) -> str:
    """A JSON value on one line, as people read it; nothing in it steers the terminal."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}={shown(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value) or "–"
    return plain(str(value))


def print_problem(problem: Mapping[str, Any], console: Console | None = None) -> None:
    """Title, what happened, where, and what to do."""
    console = console or stderr()
    console.print(f"[bold red]{escape(str(problem.get('title', 'Error')))}[/]", soft_wrap=True)
    if problem.get("detail"):
        console.print(f"  {escape(shown(problem['detail']))}", soft_wrap=True)
    for name in ("stage", "node", "param"):
        if problem.get(name):
            console.print(f"  [dim]{name}:[/] {escape(shown(problem[name]))}", soft_wrap=True)
    for where, what in further_errors(problem):
        console.print(
            f"  [dim]also[/] {escape(shown(f'{where}: {what}' if where else what))}", soft_wrap=True
        )
    if problem.get("hint"):
        console.print(f"  [dim]hint:[/] {escape(shown(problem['hint']))}", soft_wrap=True)


def further_errors(problem: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(place, message) of the errors that the problem's own detail does not tell already; the place may be empty."""
    told = str(problem.get("detail", ""))
    shown_already = ("", problem.get("param"), problem.get("node"))
    listed = []
    for entry in problem.get("errors") or []:
        where = next((str(entry[key]) for key in ("param", "path", "node") if entry.get(key)), "")
        what = next(
            (str(entry[key]) for key in ("detail", "message", "reason") if entry.get(key)), shown(entry)
        )
        if what in told and (where in shown_already or where in told or "code" in entry):
            continue
        listed.append((f"{where} ({entry['operator']})" if entry.get("operator") else where, what))
    return listed


def show_error(error: Exception) -> int:
    """Show an error that commands expect, and give the exit status that it means.

    A request that the service refused (4xx) is wrong usage; a rejected upload or an error of the service is a failure.
    """
    if isinstance(error, ApiProblem):
        print_problem(error.problem)
        return USAGE if error.refused else FAILED
    if isinstance(error, NoConnection | Unreachable):
        print_problem(
            {
                "title": "The service cannot be reached",
                "detail": str(error),
                "hint": "`burnish up` starts one on this machine",
            }
        )
        return NO_SERVICE
    if isinstance(error, DamagedDownload):
        print_problem({"title": "The download is damaged", "detail": str(error), "hint": "download it again"})
        return FAILED
    if isinstance(error, Failure):
        print_problem({"title": "Error", "detail": str(error), "hint": error.hint})
        return error.status
    if isinstance(error, OSError):
        print_problem(
            {"title": "Error", "detail": f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")}
        )
        return FAILED
    raise error


EXPECTED = (ApiProblem, NoConnection, Unreachable, DamagedDownload, Failure, OSError)


def leave(status: int) -> NoReturn:
    """End the command."""
    raise typer.Exit(status)
