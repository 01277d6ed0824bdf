"""Progress bars: bytes going up or down, and a job on its way. They go to standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)


@contextmanager
def bytes_bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for a transfer; gives the callback `(done, total)`."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(escape(what), total=None)
        begun = False

        def show(done: int, total: int) -> None:
            nonlocal begun
            if not begun:  # what an earlier run transferred says nothing of the speed of this one
                progress.reset(task, completed=done, total=total)
                begun = True
            progress.update(task, completed=done, total=total)

        yield show


@contextmanager
def busy(console: Console, what: str) -> Iterator[None]:
    """A spinner, while nobody knows how long it takes."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(escape(what), total=None)
        yield


@contextmanager
def job_bar(console: Console) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar for the stage that a job is in, below a line for each step that it did; gives the callback for the job."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[message]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("queued", total=None, message="")
        told: set[tuple[int, int]] = set()

        def show(job: dict[str, Any]) -> None:
            for index, step in enumerate(job["steps"]):
                if step["status"] != "running" and (job["attempt"], index) not in told:
                    told.add((job["attempt"], index))
                    progress.console.print(step_line(step), soft_wrap=True)
            how_far = job["progress"] or {}
            progress.update(
                task,
                description=escape(job["stage"] or job["status"]),
                completed=how_far.get("done") or 0,
                total=how_far.get("total") or None,
                message=escape(str(how_far.get("message") or "")[:60]),
            )

        yield show


def step_line(step: dict[str, Any]) -> str:
    """One finished step, with markup."""
    mark = "[green]✓[/]" if step["status"] == "done" else "[red]✗[/]"
    seconds = "" if step["seconds"] is None else f"{step['seconds']:.1f} s"
    return f"  {mark} {escape(step['name']):<28} {'[cyan]from cache[/]' if step['cached'] else seconds}"
