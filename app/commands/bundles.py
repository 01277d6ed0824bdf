"""An engine's bundle on disk: unpacked without trust in its names, checked against its manifest."""

import hashlib
import json
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from app.commands.common import USAGE, Failure

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig.json"
ENGINE_FOLDER = "engine"


def check_destination(folder: Path, force: bool) -> None:
    """Refuse a place that holds what is not ours to replace. Called before any work is done.

    Raises:
        Failure: it is a file, or a directory that is neither empty nor a bundle, and `force` was not given.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise Failure(f"{folder} is a file, not a directory", status=USAGE)
    if any(folder.iterdir()) and not _is_bundle(folder) and not force:
        raise Failure(
            f"{folder} is not empty and holds no bundle",
            hint="give another directory, or --force to put the bundle among what is there",
            status=USAGE,
        )


def unpack(archive: Path, folder: Path) -> dict[str, Any]:
    """Unpack a bundle into `folder`, in place of a bundle that is there; its manifest.

    Raises:
        Failure: the archive holds a name that leads out of the folder, a link, or a file that the manifest denies.
    """
    fresh = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        extract(archive, fresh)
        manifest = read_manifest(fresh)
        if wrong := damaged_files(fresh, manifest):
            raise Failure(
                "the bundle does not match its manifest: " + "; ".join(wrong), hint="download it again"
            )
        _put(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return manifest


def extract(archive: Path, folder: Path) -> None:
    """Unpack a zip whose every entry is a plain file inside `folder`.

    Raises:
        Failure: it is no zip, or holds anything else.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            entries = [entry for entry in source.infolist() if not entry.is_dir()]
            for entry in entries:
                target = folder / _safe(entry)
                target.parent.mkdir(parents=True, exist_ok=True)
                with source.open(entry) as content, target.open("xb") as file:
                    shutil.copyfileobj(content, file, 1024 * 1024)
    except zipfile.BadZipFile as error:
        raise Failure(f"the bundle is no zip archive: {error}", hint="download it again") from error
    except FileExistsError as error:
        raise Failure(f"the bundle holds {Path(error.filename).name} twice") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle's folder.

    Raises:
        Failure: there is none, or it cannot be read.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Failure(f"{folder} is no bundle: it has no {MANIFEST}", status=USAGE) from None
    except ValueError as error:
        raise Failure(f"{path} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise Failure(f"{path} is no manifest of a bundle")
    return manifest


def damaged_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """What is wrong with the files that the manifest lists: missing ones, and those with another digest."""
    wrong = []
    for name, promised in manifest["files"].items():
        path = folder / name
        if not isinstance(promised, dict):
            wrong.append(f"{name} has no digest in the manifest")
        elif not path.resolve().is_relative_to(folder.resolve()):
            wrong.append(f"{name} lies outside the bundle")
        elif not path.is_file():
            wrong.append(f"{name} is missing")
        elif _sha256(path) != promised.get("sha256"):
            wrong.append(f"{name} was changed")
    return wrong


def unlisted_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Files in a bundle's folder that its manifest does not know, sorted; its signature is none of them."""
    known = {*manifest["files"], MANIFEST, SIGNATURE}
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(name for name in found if name not in known)


def unpromised(manifest: dict[str, Any]) -> list[str]:
    """Files that running the engine reads, and for which the manifest promises no digest."""
    read = ["run.py"]
    for holder, field in (("engine", "entry"), ("samples", "file")):
        said = manifest.get(holder)
        read.append(str(said.get(field)) if isinstance(said, dict) else f"{holder}.{field}")
    return [name for name in read if name not in manifest["files"]]


def _safe(entry: zipfile.ZipInfo) -> PurePosixPath:
    path = PurePosixPath(entry.filename)
    mode = entry.external_attr >> 16
    plain = not stat.S_IFMT(mode) or stat.S_ISREG(mode)
    inside = not path.is_absolute() and ".." not in path.parts and "\\" not in entry.filename
    if not plain or not inside or ":" in path.parts[0]:
        raise Failure(f"the bundle holds {entry.filename!r}, which does not stay inside its folder")
    return path


def _put(fresh: Path, folder: Path) -> None:
    if folder.exists() and _is_bundle(folder):
        shutil.rmtree(folder)
    if not folder.exists():
        fresh.replace(folder)
        return
    shutil.copytree(fresh, folder, dirs_exist_ok=True)


def _is_bundle(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and (folder / "run.py").is_file()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
