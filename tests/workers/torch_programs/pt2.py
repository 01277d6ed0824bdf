"""`.pt2` files changed by hand."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL = "archive/models/model.json"


def changed(source: Path, target: Path, **members: Callable[[bytes], bytes] | bytes) -> Path:
    """A copy of an archive in which members are replaced: a member's name is given with `__` for `/`, less its first folder.

    Bytes add a member or replace it; a function gets what was there.
    """
    edits = {f"archive/{name.replace('__', '/')}": edit for name, edit in members.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data, edit = old.read(name), edits.pop(name, None)
            new.writestr(name, edit(data) if callable(edit) else data if edit is None else edit)
        for name, edit in edits.items():
            assert isinstance(edit, bytes)
            new.writestr(name, edit)
    target.write_bytes(buffer.getvalue())
    return target


def edited(source: Path, target: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of an archive whose program (JSON) was edited."""

    def change(data: bytes) -> bytes:
        document = json.loads(data)
        edit(document)
        return json.dumps(document).encode()

    return changed(source, target, **{"models__model.json": change})
