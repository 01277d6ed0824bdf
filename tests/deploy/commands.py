"""Commands that files of deployment name, held against `burnish`."""

from typing import Any

import typer

from app import cli


def parse_command(words: list[str]) -> None:
    """Raises LookupError or typer's usage error where `burnish` has no such command or option."""
    assert words[0] == "burnish"
    command: Any = typer.main.get_command(cli.app)
    context = command.make_context("burnish", [], resilient_parsing=True)
    rest = words[1:]
    while hasattr(command, "resolve_command"):
        asked = rest[0]
        name, command, rest = command.resolve_command(context, rest)
        if command is None:
            raise LookupError(f"no command {asked}")
        context = command.make_context(
            name, list(rest), parent=context, resilient_parsing=hasattr(command, "commands")
        )
