"""`burnish models`, `datasets`, `artifacts`, and `download`: what is stored."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from app.commands.common import (
    JsonOption,
    UrlOption,
    connect,
    print_json,
    print_rows,
    shown,
    stderr,
    stdout,
    when,
)
from app.commands.progress import busy, bytes_bar
from app.commands.tables import bytes_text

Json = dict[str, Any]
Columns = dict[str, Callable[[Json], Any]]

LimitOption = Annotated[int, typer.Option("--limit", min=1, help="How many to show, newest first.")]

models = typer.Typer(no_args_is_help=True, help="Uploaded networks.")
datasets = typer.Typer(no_args_is_help=True, help="Uploaded samples.")
artifacts = typer.Typer(no_args_is_help=True, help="What jobs made.")

MODEL_COLUMNS: Columns = {
    "id": lambda row: row["id"],
    "name": lambda row: row["name"],
    "status": lambda row: row["status"],
    "format": lambda row: row["format"],
    "size": lambda row: bytes_text(row["size_bytes"]),
    "created": lambda row: when(row["created_at"]),
}
DATASET_COLUMNS: Columns = {
    "id": lambda row: row["id"],
    "name": lambda row: row["name"],
    "status": lambda row: row["status"],
    "samples": lambda row: row["samples"],
    "labels": lambda row: (row["labels"] or {}).get("name"),
    "size": lambda row: bytes_text(row["size_bytes"]),
    "created": lambda row: when(row["created_at"]),
}
ARTIFACT_COLUMNS: Columns = {
    "id": lambda row: row["id"],
    "kind": lambda row: row["kind"],
    "file": lambda row: row["filename"],
    "size": lambda row: bytes_text(row["size_bytes"]),
    "job": lambda row: row["job"],
    "created": lambda row: when(row["created_at"]),
}

LAYER_COLUMNS: Columns = {
    "layer": lambda row: row["name"],
    "kind": lambda row: row["kind"],
    "parameters": lambda row: f"{row['parameters']:,}",
    "FLOPs": lambda row: None if row["flops"] is None else f"{row['flops']:,}",
    "output": lambda row: "×".join(map(str, row["output"])),
    "what could be saved": lambda row: _savings_text(row["savings"]),
}


def _savings_text(savings: Json) -> str | None:
    told = []
    if found := savings.get("depthwise-separable"):
        told.append(f"depthwise-separable: {found['flops']:,} FLOPs left")
    if found := savings.get("low-rank"):
        told.append(f"low-rank: below rank {found['break_even_rank']}")
    if found := savings.get("prune-channels"):
        told.append(f"prune-channels: {found['units']} units of {found['channels']} channels")
    if savings.get("prune-weights", {}).get("two_of_four"):
        told.append("prune-weights: 2:4 fits")
    if found := savings.get("shrink-depth"):
        told.append(f"shrink-depth: {found['flops']:,} FLOPs go with {found['branch']}")
    return "; ".join(told) or None


def add_common(app: typer.Typer, kind: str, columns: Columns, but: tuple[str, ...] = ()) -> None:
    """Add `list`, `show` and `delete` for a kind of thing, `but` those that it has of its own."""
    singular = kind.removesuffix("s")

    def list_(limit: LimitOption = 50, url: UrlOption = None, as_json: JsonOption = False) -> None:
        with connect(url) as client:
            rows = client.list(kind, most=limit)
        print_json(rows) if as_json else print_rows(columns, rows)

    def show(
        id_: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
        url: UrlOption = None,
        as_json: JsonOption = False,
    ) -> None:
        with connect(url) as client:
            row = client.show(kind, id_)
        print_json(row) if as_json else print_fields(row)

    def delete(
        ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Their ids.")],
        url: UrlOption = None,
        as_json: JsonOption = False,
    ) -> None:
        with connect(url) as client:
            for id_ in ids:
                client.delete(kind, id_)
        print_json({"deleted": ids}) if as_json else stdout().print(f"deleted {', '.join(ids)}")

    commands: dict[str, tuple[Callable[..., None], str]] = {
        "list": (list_, f"List {kind}, newest first."),
        "show": (show, f"Show one {singular}."),
        "delete": (delete, f"Delete {kind}; refused while something else needs them."),
    }
    for name, (command, help_) in commands.items():
        if name not in but:
            app.command(name, help=help_)(command)


@models.command("show")
def show_model(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
    layers: Annotated[
        bool, typer.Option("--layers", help="With its layers, and what surgery could save at each.")
    ] = False,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one model."""
    with connect(url) as client:
        row = client.show("models", id_)
        structure = client.structure(id_) if layers else None
    if as_json:
        print_json(row if structure is None else row | {"structure": structure})
        return
    print_fields(row)
    if structure is not None:
        print_layers(structure)


def print_layers(structure: Json) -> None:
    """The layers of a model, a row each, and their sums."""
    console = stdout()
    what = "program" if structure["source"] == "program" else "ONNX graph"
    console.print(f"[bold]layers[/] of the {what}, for one sample")
    print_rows(LAYER_COLUMNS, structure["layers"])
    more = f", {structure['left_out']:,} layers more" if structure["left_out"] else ""
    console.print(f"in all {structure['parameters']:,} parameters, {structure['flops']:,} FLOPs{more}")


def print_fields(row: Json, indent: int = 0) -> None:
    """One thing, a line a field, nested ones below; lists of things a line each."""
    console = stdout()
    space = " " * indent
    for name, value in row.items():
        if isinstance(value, dict) and value:
            console.print(f"{space}[bold]{escape(name)}[/]")
            print_fields(value, indent + 2)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            console.print(f"{space}[bold]{escape(name)}[/]")
            for item in value:
                console.print(f"{space}  - {escape(shown(item))}", soft_wrap=True)
        else:
            console.print(f"{space}[bold]{escape(name)}[/] {escape(shown(value))}", soft_wrap=True)


@models.command("upload")
def upload_model(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A model; several files as .zip or .tar.")
    ],
    name: Annotated[str | None, typer.Option(help="What to call it; default: the file's name.")] = None,
    format: Annotated[str | None, typer.Option(help="The format; default: found out.")] = None,
    signature: Annotated[
        list[str],
        typer.Option(metavar="NAME:DTYPE:DIM,…", help="An input, for files that do not tell; repeat."),
    ] = [],  # noqa: B006 - typer reads the default
    architecture: Annotated[
        str | None, typer.Option(help="The architecture, for files that hold weights alone.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="Its licence, best as SPDX has it (Apache-2.0): bundles name it.")
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Upload a model and wait until it is inspected."""
    console = stderr()
    with connect(url) as client:
        with bytes_bar(console, f"uploading {file.name}") as progress:
            row = client.upload_model(
                file,
                name=name,
                format=format,
                signature=signature,
                architecture=architecture,
                license=license,
                progress=progress,
            )
        with busy(console, f"inspecting {file.name}"):
            row = client.wait_model(row["id"])
    print_json(row) if as_json else print_rows(MODEL_COLUMNS, [row])


@datasets.command("upload")
def upload_dataset(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="An .npz, a .tar (WebDataset), Parquet.")
    ],
    name: Annotated[str | None, typer.Option(help="What to call it; default: the file's name.")] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARRAY=SOURCE",
            help="Which array comes from what: an ending of a .tar (images=png), a column, an array. Repeatable.",
        ),
    ] = None,
    transform: Annotated[
        list[str] | None,
        typer.Option(
            metavar="JSON",
            help="What is done to each sample, in order, as "
            '\'{"do": "resize", "height": 224, "width": 224}\'; also center-crop, pad, normalize, layout, grayscale, '
            'cast, and for text \'{"do": "tokenize", "field": "text", "model": "mdl_…", "length": 128}\'. Repeatable.',
        ),
    ] = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Upload a dataset and wait until it is inspected."""
    console = stderr()
    with connect(url) as client:
        with bytes_bar(console, f"uploading {file.name}") as progress:
            row = client.upload_dataset(
                file, name=name, fields=field or [], transforms=transform or [], progress=progress
            )
        with busy(console, f"inspecting {file.name}"):
            row = client.wait_dataset(row["id"])
    print_json(row) if as_json else print_rows(DATASET_COLUMNS, [row])


def download(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="An artifact's id.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write, or a directory.")] = Path(),
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Download an artifact; a broken download goes on where it stopped, and the digest is checked."""
    console = stderr()
    with connect(url) as client, bytes_bar(console, "downloading") as progress:
        path = client.download(artifact, out, progress)
    print_json({"path": str(path)}) if as_json else stdout().print(str(path), soft_wrap=True, markup=False)


add_common(models, "models", MODEL_COLUMNS, but=("show",))
add_common(datasets, "datasets", DATASET_COLUMNS)
add_common(artifacts, "artifacts", ARTIFACT_COLUMNS)
