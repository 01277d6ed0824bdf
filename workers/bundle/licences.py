"""Under which licences a bundle's contents stand: what the uploader said, and what the packages that it needs say."""

import re
from collections.abc import Iterable
from email.message import Message
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from app.storage.disk import link_or_copy
from workers.model_handle import ModelHandle

FOLDER = "licences"
NAMED = re.compile(r"(licen[cs]e|copying|notice)([.-].{1,40})?", re.IGNORECASE)
MOST_FILES = 20
MOST_BYTES = 1024 * 1024
LONGEST = 120  # of a licence's name; some packages put the whole text there
CLASSIFIER = "License :: "


def licences(model: ModelHandle, said: str | None, packages: Iterable[str], folder: Path) -> dict[str, Any]:
    """Copy the licence files that were uploaded with a model into the bundle's folder; the manifest's `licences`.

    {model: {licence, files}, packages: [{package, version, licence}]}; a `licence` is None where nobody said one.
    """
    return {
        "model": {"licence": said, "files": copy_files(model, folder)},
        "packages": [of_package(name) for name in sorted(set(packages))],
    }


def copy_files(model: ModelHandle, folder: Path) -> list[str]:
    """Copy the licence files at the top of a model's files, or beside its entry: `LICENSE`, `NOTICE.txt`, …; their paths in the bundle."""
    beside = {path.name: path for place in (model.path.parent, model.root) for path in place.iterdir()}
    found = [
        path
        for _, path in sorted(beside.items())
        if NAMED.fullmatch(path.name)
        and path.is_file()
        and not path.is_symlink()
        and path.stat().st_size <= MOST_BYTES
    ]
    copied = []
    for path in found[:MOST_FILES]:
        target = folder / FOLDER / path.name
        target.parent.mkdir(exist_ok=True)
        link_or_copy(path, target)
        copied.append(target.relative_to(folder).as_posix())
    return copied


def of_package(name: str) -> dict[str, Any]:
    """What an installed distribution says of its licence: {package, version, licence}."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return {"package": name, "version": None, "licence": None}
    said = found.metadata
    assert isinstance(said, Message)  # importlib.metadata promises less than it gives
    return {"package": name, "version": found.version, "licence": _licence(said)}


def _licence(said: Message) -> str | None:
    """`License-Expression` (PEP 639), else the classifiers, else a `License` of one line."""
    if expression := said.get("License-Expression"):
        return str(expression)
    classified = [
        str(one).rpartition(" :: ")[2]
        for one in said.get_all("Classifier", [])
        if str(one).startswith(CLASSIFIER) and str(one) != "License :: OSI Approved"
    ]
    if classified:
        return ", ".join(classified)
    plain = str(said.get("License", "")).strip()
    return plain if plain and len(plain) <= LONGEST and "\n" not in plain else None
