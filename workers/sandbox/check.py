"""What holds a child here, found out by one that tries to break out."""

import json
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from app.config import Settings, get_settings
from workers.child_process import ChildProcess, child_limits
from workers.sandbox.enter import WALLS, Confinement, enter

COMMAND = (sys.executable, "-m", "workers", "check")
TICK_SECONDS = 0.2
ASSIGNMENT = "assignment.json"


def sandbox(without: Iterable[str] = ()) -> dict[str, str | None]:
    """The report of a child that was started like any other, less what it broke through. `without`: walls to leave out.

    Raises:
        RuntimeError: the child could not be started.
    """
    settings = get_settings()
    settings.scratch_path.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="check.", dir=settings.scratch_path))
        )
        tries = {
            "reach": stack.enter_context(_listener()),
            "files": [str(stack.enter_context(_canary(each))) for each in _data_folders(settings)],
        }
        path = folder / ASSIGNMENT
        path.write_text(json.dumps(tries))
        limits = child_limits(folder, without=frozenset(without) & frozenset(WALLS))
        child = ChildProcess(COMMAND, path, folder, folder.name, limits)
        try:
            while not child.ended:
                for message in child.messages(TICK_SECONDS):
                    report: dict[str, str | None] = message["report"]
                    return report
        finally:
            child.close(TICK_SECONDS)
        raise RuntimeError(f"the child that tries the sandbox died: {child.log.tail()}")


def main(asked: Confinement) -> int:
    """The child: enters, tries what it was told to, and prints a message with its report."""
    report = enter(asked)
    found = report.as_dict()
    found.update(dict.fromkeys(_broken(json.loads(asked.assignment.read_text())), None))
    print(json.dumps({"type": "result", "report": found}), flush=True)  # noqa: T201 - this is what the process is for
    return 0


def _broken(tries: dict[str, Any]) -> Iterator[str]:
    """The walls through which there is a way."""
    try:
        socket.create_connection(tuple(tries["reach"]), timeout=2).close()
        yield "network"
    except OSError:
        pass
    for file in tries["files"]:
        for mode in ("rb", "ab"):
            try:
                Path(file).open(mode).close()
                yield "files"
            except OSError:
                continue


def _data_folders(settings: Settings) -> set[Path]:
    """Where files lie that are no child's business."""
    url = settings.resolved_database_url
    folders = {settings.scratch_path, settings.blobs_path, settings.data_dir.resolve()}
    if url.startswith("sqlite:///"):
        folders.add(Path(unquote(url.removeprefix("sqlite:///"))).resolve().parent)
    return {folder for folder in folders if folder.is_dir()}


@contextmanager
def _listener() -> Iterator[tuple[str, int]]:
    """The address of somebody who would answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


@contextmanager
def _canary(folder: Path) -> Iterator[Path]:
    """A file of this user's in a folder."""
    with tempfile.NamedTemporaryFile(prefix="check.", dir=folder) as file:
        yield Path(file.name)
