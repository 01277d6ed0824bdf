"""`burnish webhooks`: where to tell of the ends of the project's jobs."""

import sys
from typing import Annotated

import typer

from app.commands.common import (
    FAILED,
    JsonOption,
    UrlOption,
    connect,
    print_json,
    print_rows,
    stderr,
    stdout,
    when,
)
from app.commands.resources import Columns, LimitOption, add_common

webhooks = typer.Typer(
    no_args_is_help=True, help="Addresses that are told of the ends of jobs; for a project's admins."
)

COLUMNS: Columns = {
    "id": lambda row: row["id"],
    "url": lambda row: row["url"],
    "created": lambda row: when(row["created_at"]),
}
DELIVERY_COLUMNS: Columns = {
    "id": lambda row: row["id"],
    "type": lambda row: row["type"],
    "job": lambda row: row["job_id"],
    "status": lambda row: row["status"],
    "attempts": lambda row: row["attempts"],
    "next": lambda row: when(row["next_attempt_at"]),
    "answer": lambda row: row["answer_status"],
    "problem": lambda row: row["problem"],
}

WebhookArgument = Annotated[str, typer.Argument(metavar="ID", help="The webhook's id.")]

add_common(webhooks, "webhooks", COLUMNS)


@webhooks.command("create")
def create(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="An https URL that takes a POST.")],
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell an address of the ends of jobs. The secret that signs is shown this once, on standard output alone."""
    with connect(url) as client:
        made = client.create_webhook(address)
    if as_json:
        print_json(made)
        return
    stdout().print(made["secret"], markup=False, soft_wrap=True)
    stderr().print(f"{made['id']}: keep the secret; it cannot be shown again", soft_wrap=True)


@webhooks.command("deliveries")
def deliveries(
    id_: WebhookArgument, limit: LimitOption = 50, url: UrlOption = None, as_json: JsonOption = False
) -> None:
    """List what a webhook was told, or is about to be, newest first."""
    with connect(url) as client:
        rows = client.list(f"webhooks/{id_}/deliveries", most=limit)
    print_json(rows) if as_json else print_rows(DELIVERY_COLUMNS, rows)


@webhooks.command("test")
def send_test(id_: WebhookArgument, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Send a message that tells of nothing, and wait for its first attempt; exit status 1 where that failed."""
    with connect(url) as client:
        row = client.test_webhook(id_)
    print_json(row) if as_json else print_rows(DELIVERY_COLUMNS, [row])
    if row["status"] != "delivered":
        sys.exit(FAILED)
