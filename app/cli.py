"""The `burnish` command. Its parts are in `app/commands`; every client command is a call of `app.client`."""

import sys
from typing import Annotated

import typer

from app import __version__
from app.commands import (
    account,
    admin,
    benchmark,
    catalog,
    check,
    compare,
    jobs,
    optimize,
    profile,
    rebuild,
    report,
    resources,
    retention,
    service,
    submit,
    webhooks,
)
from app.commands.common import EXPECTED, show_error

app = typer.Typer(
    name="burnish",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make trained neural networks small and fast, and prove it.\n\n"
    "Exit status: 0 done, 1 the job failed, 2 wrong usage, 3 the service cannot be reached.",
)

SERVICE, WORK, STORE, CATALOG, ADMIN = (
    "The service",
    "Work",
    "What is stored",
    "The catalog",
    "Administration",
)

app.command(rich_help_panel=WORK)(optimize.optimize)
app.command(rich_help_panel=WORK)(rebuild.rebuild)
app.command(rich_help_panel=WORK)(profile.profile)
app.command(rich_help_panel=WORK)(benchmark.benchmark)
jobs.jobs.command()(submit.submit)
app.add_typer(jobs.jobs, name="jobs", rich_help_panel=WORK)
app.command(rich_help_panel=WORK)(report.report)
app.command(rich_help_panel=WORK)(compare.compare)
app.command(rich_help_panel=WORK)(check.check)
app.add_typer(resources.models, name="models", rich_help_panel=STORE)
app.add_typer(resources.datasets, name="datasets", rich_help_panel=STORE)
app.add_typer(resources.artifacts, name="artifacts", rich_help_panel=STORE)
app.command(rich_help_panel=STORE)(resources.download)
app.command(rich_help_panel=CATALOG)(catalog.formats)
app.command(rich_help_panel=CATALOG)(catalog.passes)
app.command(rich_help_panel=CATALOG)(catalog.runtimes)
app.command(rich_help_panel=CATALOG)(catalog.metrics)
app.command(rich_help_panel=CATALOG)(catalog.workers)
app.command(rich_help_panel=SERVICE)(service.up)
app.command(rich_help_panel=SERVICE)(service.serve)
app.command(rich_help_panel=SERVICE)(service.worker)
app.command(rich_help_panel=SERVICE)(service.migrate)
app.command(rich_help_panel=SERVICE)(retention.gc)
app.command(rich_help_panel=SERVICE)(retention.verify)
app.command(rich_help_panel=ADMIN)(account.usage)
app.command(rich_help_panel=ADMIN)(account.audit)
app.add_typer(webhooks.webhooks, name="webhooks", rich_help_panel=ADMIN)
app.add_typer(admin.keys, name="keys", rich_help_panel=ADMIN)
app.add_typer(admin.projects, name="projects", rich_help_panel=ADMIN)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"burnish {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before a command."""


def main() -> None:
    """The command's entry: errors that are expected are shown without a traceback."""
    try:
        app()
    except EXPECTED as error:
        sys.exit(show_error(error))


if __name__ == "__main__":
    main()
