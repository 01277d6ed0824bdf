"""`burnish keys signing`: the keys that bundles are signed with, and those that `burnish check` trusts."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands.common import USAGE, Failure, JsonOption, print_json, print_rows, stderr, stdout, when
from app.connection import connection_file

if TYPE_CHECKING:
    from app.signing.keys import SigningKey

TRUSTED = "trusted-keys.pem"

signing = typer.Typer(no_args_is_help=True, help="The keys that bundles are signed with (Ed25519).")

DirOption = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        file_okay=False,
        help="The directory of the keys. Default: BURNISH_SIGNING_DIR, else `signing` under the data directory.",
    ),
]
DataOption = Annotated[
    Path | None, typer.Option(file_okay=False, help="The data directory of a `burnish up`.")
]
COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "id": lambda row: row["id"],
    "signs": lambda row: row["signs"],
    "created": lambda row: when(row["created_at"]),
    "retired": lambda row: when(row["retired_at"]),
}


@signing.command("create")
def create_key(folder: DirOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Make a key. Workers that read this directory sign with it from the next bundle on."""
    from app.signing import keys

    place = _folder(folder, data)
    row = _row(_trying(lambda: keys.create(place)))
    if as_json:
        print_json(row)
        return
    stdout().print(row["id"])
    stderr().print(f"its private half is {place / (row['id'] + '.pem')}: keep a copy", soft_wrap=True)


@signing.command("list")
def list_keys(folder: DirOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """List the keys, retired ones included. The newest that signs is the one in use."""
    from app.signing import keys

    rows = [_row(key) for key in _trying(lambda: keys.list_keys(_folder(folder, data)))]
    print_json(rows) if as_json else print_rows(COLUMNS, rows)


@signing.command("retire")
def retire_key(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id.")],
    folder: DirOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a key's private half. What it signed holds on for whoever trusts its public half."""
    from app.signing import keys

    row = _row(_trying(lambda: keys.retire(_folder(folder, data), key)))
    print_json(row) if as_json else stdout().print(f"retired {key}")


@signing.command("export")
def export_keys(
    wanted: Annotated[
        list[str], typer.Argument(metavar="KEY…", help="Their ids; none: every key, retired ones too.")
    ] = [],  # noqa: B006
    folder: DirOption = None,
    data: DataOption = None,
) -> None:
    """Print public keys in PEM, for `burnish check --trust` and other tools."""
    from app.signing import keys
    from app.signing.signatures import pem

    found = {key.id: key for key in _trying(lambda: keys.list_keys(_folder(folder, data)))}
    if missing := sorted(set(wanted) - set(found)):
        raise Failure(f"there is no signing key {', '.join(missing)}", status=USAGE)
    if not found:
        raise Failure("there is no signing key", hint="`burnish keys signing create` makes one")
    for id_ in wanted or found:
        stdout().print(f"# {id_}\n{pem(found[id_].public)}", end="", markup=False, soft_wrap=True)


@signing.command("trust")
def trust_keys(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Public keys in PEM.")
    ],
) -> None:
    """Trust public keys from now on: `burnish check` of this user asks for a signature of one of them."""
    from app.signing.signatures import key_id, pem

    place = trusted_file()
    known = read_trusted([place]) if place.exists() else []
    both = list(dict.fromkeys([*known, *read_trusted([file])]))
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    temporary.write_text("".join(f"# {key_id(one)}\n{pem(one)}" for one in both), encoding="utf-8")
    temporary.replace(place)
    stdout().print(f"{place}: {', '.join(key_id(one) for one in both)}", soft_wrap=True)


def trusted_file() -> Path:
    """The public keys that this user trusts, beside the file that says where the service is."""
    return connection_file().with_name(TRUSTED)


def read_trusted(files: list[Path]) -> list[bytes]:
    """The public keys of files of PEM.

    Raises:
        Failure: one holds none, or something else.
    """
    from app.signing.signatures import BadKey, read_public_keys

    found = []
    for file in files:
        try:
            found += read_public_keys(file.read_bytes())
        except BadKey as error:
            raise Failure(f"{file}: {error}", status=USAGE) from error
    return found


def _folder(folder: Path | None, data: Path | None) -> Path:
    from app.config import get_settings

    if folder is not None:
        return folder
    return data / "signing" if data is not None else get_settings().signing_path


def _row(key: "SigningKey") -> dict[str, Any]:
    return {
        "id": key.id,
        "signs": key.signs,
        "created_at": key.created_at,
        "retired_at": key.retired_at,
    }


def _trying(work: Callable[[], Any]) -> Any:
    from app.signing.signatures import BadKey

    try:
        return work()
    except BadKey as error:
        raise Failure(str(error)) from error
