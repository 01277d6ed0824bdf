"""Writes the bundle: engine, `manifest.json` and its signature, `run.py`, `README.md`, sample inputs with promised outputs."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.storage.disk import link_or_copy
from workers.bundle.text import readme
from workers.onnx_files import file_digest
from workers.runtimes.base import Engine

ENGINE_FOLDER = "engine"
SIGNATURE = "manifest.sig.json"  # as `app.signing.signatures` has it
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's earliest time: the same bundle has the same bytes


def lay_out(folder: Path, engine: Engine) -> str:
    """Copy the engine's files and `run.py` into the bundle's folder; the engine's entry inside the bundle."""
    for file in sorted(engine.root.rglob("*")):
        if file.is_file():
            target = folder / ENGINE_FOLDER / file.relative_to(engine.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(file, target)
    shutil.copyfile(Path(__file__).with_name("run.py"), folder / "run.py")
    return f"{ENGINE_FOLDER}/{engine.entry}"


def write_manifest(
    folder: Path, manifest: dict[str, Any], sign: Callable[[str], str | None]
) -> dict[str, Any]:
    """Write `README.md`, then `manifest.json` with a digest per file, then its signature; the manifest as written.

    `sign` gives the signature's file for the manifest's text; None: there is nobody to sign.
    """
    (folder / "README.md").write_text(readme(manifest), encoding="utf-8")
    return seal(folder, manifest, sign)


def seal(folder: Path, manifest: dict[str, Any], sign: Callable[[str], str | None]) -> dict[str, Any]:
    """Write `manifest.json` with a digest of every file that is in the folder, then its signature; the manifest as written."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": file_digest(path), "size_bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    whole = {**manifest, "files": files}
    text = json.dumps(whole, indent=2, allow_nan=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    if (signature := sign(text)) is not None:
        (folder / SIGNATURE).write_text(signature, encoding="utf-8")
    return whole


def pack(folder: Path, target: Path) -> Path:
    """The bundle's folder as a zip: sorted names, fixed times, weights stored as they are (they do not compress)."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EPOCH)
                info.external_attr = 0o644 << 16
                info.file_size = path.stat().st_size  # tells zipfile to write 64-bit sizes where needed
                with path.open("rb") as source, archive.open(info, "w") as sink:
                    shutil.copyfileobj(source, sink, 1024 * 1024)
    return target
