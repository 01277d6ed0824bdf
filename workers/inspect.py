"""The inspection of an upload: what is it, is it valid, what is in it. Runs in a child; the upload may be hostile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.errors import InvalidModel, SignatureMismatch, UnsupportedFormat
from app.storage.disk import link_or_copy
from workers.archive import is_archive, unpack
from workers.assignment import UPLOAD_NAMES, InspectAssignment
from workers.formats import npz, onnx
from workers.formats.detect import refusal

MODEL_FILE, DATASET_FILE = UPLOAD_NAMES["model"], UPLOAD_NAMES["dataset"]


def inspect(assignment: InspectAssignment, report: Callable[[str], None]) -> dict[str, Any]:
    """The `result` of an inspection, as `protocol.py` describes it.

    Raises:
        BurnishError: what is wrong with the upload, and what to do.
    """
    root = assignment.scratch / "tree"
    if assignment.subject == "dataset":
        return inspect_dataset(assignment, root, report)
    return inspect_model(assignment, root, report)


def inspect_model(assignment: InspectAssignment, root: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """{root, format, signature, facts} of a model."""
    if assignment.file.stat().st_size == 0:
        raise InvalidModel("the file is empty")
    if (error := refusal(assignment.file)) is not None:
        raise error
    declared = assignment.declared.get("format")
    if declared not in (None, onnx.FORMAT):
        raise UnsupportedFormat(
            f"the format {declared!r} was declared; models are taken as {onnx.FORMAT}", param="format"
        )
    report("unpacking")
    if is_archive(assignment.file):
        unpack(assignment.file, root, assignment.max_archive_bytes, assignment.max_archive_files)
        entry = find_entry(root)
    else:
        root, entry = place(assignment.file, root, MODEL_FILE), MODEL_FILE
    report("checking")
    described = onnx.describe(root, entry, onnx.check(root, entry))
    fix_declared(described["signature"], assignment.declared.get("signature"))
    return {"root": str(root), "format": onnx.FORMAT, **described}


def find_entry(root: Path) -> str:
    """The ONNX file of an unpacked archive.

    Raises:
        UnsafeModel, UnsupportedFormat: there is none, or several; what else was found is named.
    """
    if not any(root.rglob("*.onnx")):
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            if (error := refusal(file)) is not None:
                raise error
    return onnx.find_entry(root)


def inspect_dataset(
    assignment: InspectAssignment, root: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """{root, format, samples, inputs, labels} of a dataset."""
    report("checking")
    root = place(assignment.file, root, DATASET_FILE)
    described = npz.describe(root / DATASET_FILE, assignment.max_archive_bytes)
    return {"root": str(root), "format": npz.FORMAT, **described}


def place(file: Path, root: Path, name: str) -> Path:
    """The folder in which the upload lies under a plain name: its own, where it was laid out under that name."""
    if file.name == name:
        return file.parent
    root.mkdir(parents=True)
    link_or_copy(file, root / name)
    return root


def fix_declared(found: dict[str, Any], declared: dict[str, Any] | None) -> None:
    """Fix free dimensions of a model's inputs at the numbers that the uploader declared.

    Raises:
        SignatureMismatch: the uploader said something else of an input than the model says itself.
    """
    inputs = {entry["name"]: entry for entry in found["inputs"]}
    for entry in (declared or {}).get("inputs", []):
        own = inputs.get(entry["name"])
        if own is None:
            raise SignatureMismatch(
                f"the declared input {entry['name']!r} is none of the model's: {sorted(inputs)}",
                param="signature",
            )
        fits = len(own["shape"]) == len(entry["shape"]) and all(
            not isinstance(mine, int) or not isinstance(theirs, int) or mine == theirs
            for mine, theirs in zip(own["shape"], entry["shape"], strict=True)
        )
        if entry["dtype"] != own["dtype"] or not fits:
            raise SignatureMismatch(
                f"input {entry['name']!r} is {own['dtype']} {own['shape']}, declared was {entry['dtype']} {entry['shape']}",
                param="signature",
                hint="declare numbers for free dimensions alone",
            )
        own["shape"] = [
            theirs if isinstance(theirs, int) else mine
            for mine, theirs in zip(own["shape"], entry["shape"], strict=True)
        ]
