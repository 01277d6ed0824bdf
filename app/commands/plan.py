"""What a job would do, as people read it: a line a step, who could take it, and what speaks against it."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from app.commands.common import print_problem

NODES_SHOWN = 5


def print_plan(console: Console, answer: Mapping[str, Any]) -> None:
    """What `POST /v1/models/{id}/validate` answers: targets on `console`, problems where problems go."""
    for target in answer["targets"]:
        for line in target_lines(target):
            console.print(line, soft_wrap=True)
        if target["problem"] is not None:
            print_problem(target["problem"])


def target_lines(target: Mapping[str, Any]) -> Iterator[str]:
    """One target: its steps, its workers, how much of the model its runtime covers, and why a preset chose the steps."""
    yield f"[bold]{escape(target['target']['runtime'])}[/]"
    for number, step in enumerate(target["steps"], start=1):
        given = " ".join(f"{name}={value}" for name, value in step["params"].items() if value is not None)
        precision = (
            step["takes"] if step["takes"] == step["leaves"] else f"{step['takes']} → {step['leaves']}"
        )
        yield f"  {number}. {escape(step['name'])}  {escape(precision)}  [dim]{escape(given)}[/]"
    workers = target["workers"]
    who = f"{len(workers['workers'])} online" if workers["workers"] else workers["state"] or "never seen"
    yield f"  workers: {who} [dim]({escape(workers['queue'])})[/]"
    if (coverage := target["coverage"]) is not None:
        yield f"  operators {coverage['evidence']}: {coverage['share']:.1%} of {coverage['operators']}"
        for node in coverage["unsupported"][:NODES_SHOWN]:
            yield f"    {escape(str(node['node']))} ({escape(node['operator'])}): {escape(node['reason'])}"
    for note in target["notes"]:
        yield f"  [dim]{escape(note)}[/]"
