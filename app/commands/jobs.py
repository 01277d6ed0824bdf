"""`burnish jobs …`: watching, ending and repeating work."""

import sys
from typing import Annotated, Any

import typer

from app.commands.common import (
    DONE,
    FAILED,
    JsonOption,
    UrlOption,
    connect,
    leave,
    print_json,
    print_rows,
    stderr,
    stdout,
    when,
)
from app.commands.optimize import show_outcome, watch
from app.commands.resources import Columns, LimitOption, add_common, print_fields

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]

jobs = typer.Typer(no_args_is_help=True, help="Work: queued, running, done.")

COLUMNS: Columns = {
    "id": lambda row: row["id"],
    "kind": lambda row: row["kind"],
    "name": lambda row: row["name"],
    "status": lambda row: row["status"],
    "stage": lambda row: None if row["finished"] else row["stage"],
    "target": lambda row: [target["runtime"] for target in row["targets"]],
    "speed-up": lambda row: _speedup(row["result"]),
    "created": lambda row: when(row["created_at"]),
}


@jobs.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only those of this status.")] = None,
    label: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="Only those with this label.")] = [],  # noqa: B006
    limit: LimitOption = 50,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with connect(url) as client:
        rows = client.list("jobs", most=limit, status=status, label=label or None)
    print_json(rows) if as_json else print_rows(COLUMNS, rows)


@jobs.command()
def wait(job: JobArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Watch a job to its end, and show its result. Exit status 1: it did not succeed."""
    with connect(url) as client:
        row = watch(client, job, stderr())
    print_json(row) if as_json else show_outcome(row)
    leave(DONE if row["status"] == "succeeded" else FAILED)


@jobs.command()
def cancel(job: JobArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Cancel a job: one that runs is stopped within seconds."""
    with connect(url) as client:
        row = client.cancel(job)
    print_json(row) if as_json else stdout().print(f"{row['id']} {row['status']}")


@jobs.command()
def retry(job: JobArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Queue a finished job's request again; its stored steps are used."""
    with connect(url) as client:
        row = client.retry(job)
    print_json(row) if as_json else stdout().print(f"{row['id']} {row['status']}")


@jobs.command()
def logs(job: JobArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Print what a job's processes wrote."""
    with connect(url) as client:
        text = client.logs(job)
    print_json({"job": job, "log": text}) if as_json else sys.stdout.write(text)


@jobs.command()
def show(job: JobArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show one job, with its table once it has a result."""
    with connect(url) as client:
        row = client.show("jobs", job)
    if as_json:
        print_json(row)
        return
    print_fields({name: value for name, value in row.items() if name not in ("result", "problem")})
    show_outcome(row)


def _speedup(result: dict[str, Any] | None) -> str | None:
    speedup = ((result or {}).get("comparison") or {}).get("speedup") or {}
    value = speedup.get("value")
    return None if value is None else f"{value:.3g}× {str(speedup.get('verdict')).replace('_', ' ')}"


add_common(jobs, "jobs", COLUMNS, but=("list", "show"))
