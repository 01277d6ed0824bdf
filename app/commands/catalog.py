"""`burnish formats`, `passes`, `runtimes`, `metrics`, `workers`: what can be done, and who does it."""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape

from app.commands.common import (
    USAGE,
    Failure,
    JsonOption,
    UrlOption,
    connect,
    print_json,
    print_rows,
    shown,
    stdout,
    when,
)
from app.commands.tables import bytes_text

Json = dict[str, Any]


def formats(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """The formats that a model can be uploaded in."""
    with connect(url) as client:
        rows = client.formats()
    columns = {
        "name": lambda row: row["name"],
        "what is uploaded": lambda row: row["files"].replace("`", ""),
        "becomes": lambda row: row["converts_to"],
        "declare": lambda row: row["declares"],
    }
    print_json(rows) if as_json else print_rows(columns, rows)


def passes(
    name: Annotated[str | None, typer.Argument(help="Show this one with all its parameters.")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """The passes that a recipe can name."""
    with connect(url) as client:
        rows = client.passes()
    if name is not None:
        describe(find(rows, name, "pass"), as_json)
        return
    columns = {
        "name": lambda row: row["name"],
        "what it does": lambda row: row["title"],
        "leaves": _leaves,
        "reads": lambda row: row["inputs"],
    }
    print_json(rows) if as_json else print_rows(columns, rows)


def runtimes(
    name: Annotated[str | None, typer.Argument(help="Show this one with all its parameters.")] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """The runtimes that a target can name."""
    with connect(url) as client:
        rows = client.runtimes()
    if name is not None:
        describe(find(rows, name, "runtime"), as_json)
        return
    columns = {
        "name": lambda row: row["name"],
        "what it is": lambda row: row["title"],
        "device": lambda row: row["device"],
        "takes": lambda row: row["formats"],
    }
    print_json(rows) if as_json else print_rows(columns, rows)


def metrics(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """What accuracy can mean."""
    with connect(url) as client:
        rows = client.metrics()
    columns = {
        "name": lambda row: row["name"],
        "what it says": lambda row: row["title"],
        "unit": lambda row: row["unit"],
        "better": lambda row: "higher" if row["higher_is_better"] else "lower",
        "needs labels": lambda row: row["needs_labels"],
    }
    print_json(rows) if as_json else print_rows(columns, rows)


def workers(url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Who serves now, and what holds the processes that they start (docs/security.md)."""
    with connect(url) as client:
        rows = client.workers()
    columns = {
        "id": lambda row: row["id"],
        "host": lambda row: row["host"],
        "machine": lambda row: machine(row["hardware"]),
        "queues": lambda row: row["queues"],
        "runs": lambda row: row["jobs"],
        "seen": lambda row: when(row["last_seen_at"]),
    }
    if as_json:
        print_json(rows)
        return
    print_rows(columns, rows)
    if rows:
        stdout().print("\n[bold]Sandbox[/] of a job's process; – where nothing holds")
        walls = list(dict.fromkeys(wall for row in rows for wall in row["sandbox"] or {}))
        print_rows(
            {"worker": lambda row: row["id"], **{wall.replace("_", " "): _wall(wall) for wall in walls}}, rows
        )


def machine(hardware: Json) -> str:
    """A worker's machine in a line: processors, memory, GPUs."""
    parts = []
    if cores := hardware.get("cores"):
        parts.append(f"{cores} × {hardware.get('cpu') or hardware.get('architecture', 'processor')}")
    if memory := hardware.get("memory_bytes"):
        parts.append(bytes_text(memory))
    parts += [f"{gpu['name']} ({gpu['compute_capability']})" for gpu in hardware.get("gpus", [])]
    return ", ".join(parts)


def _wall(name: str) -> Callable[[Json], Any]:
    return lambda row: (row["sandbox"] or {}).get(name)


def find(rows: list[Json], name: str, what: str) -> Json:
    """The row of this name.

    Raises:
        Failure: there is none.
    """
    for row in rows:
        if row["name"] == name:
            return row
    raise Failure(
        f"there is no {what} called {name!r}",
        hint=f"there are {', '.join(row['name'] for row in rows)}",
        status=USAGE,
    )


def describe(row: Json, as_json: bool) -> None:
    """One entry of the catalog, with its parameters."""
    if as_json:
        print_json(row)
        return
    console = stdout()
    console.print(
        f"[bold]{row['name']}[/] – {escape(row['title'])}\n\n{escape(row['documentation'])}\n", soft_wrap=True
    )
    if row.get("preset"):
        console.print(f"[bold]preset[/]\n{escape(row['preset'])}\n", soft_wrap=True)
    columns = {
        "parameter": lambda field: field["name"],
        "default": lambda field: shown(field.get("default")),
        "type": _type,
        "description": lambda field: field.get("description", ""),
    }
    properties = row["params"].get("properties", {})
    print_rows(columns, [{"name": name, **field} for name, field in properties.items()])


def _type(field: Json) -> str:
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "anyOf" in field:
        return " | ".join(_type(one) for one in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    return str(field.get("type", field.get("const", "")))


def _leaves(row: Json) -> str:
    """The precision that a pass leaves, or all that it can leave."""
    if row["produces_by"]:
        return ", ".join(row["produces_by"]["values"].values())
    return str(row["produces"] or "as it was")
