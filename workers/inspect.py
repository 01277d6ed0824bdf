"""The inspection of an upload: what is it, is it valid, what is in it. Runs in a child; the upload may be hostile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.catalog.formats import FORMATS
from app.errors import InvalidModel, SignatureMismatch, UnsupportedFormat
from workers.assignment import UPLOAD_NAMES, DatasetFiles, InspectAssignment
from workers.coverage import coverage
from workers.datasets import opening
from workers.formats import npz, onnx
from workers.formats.base import Source
from workers.formats.describe import describe
from workers.formats.locate import locate, place
from workers.formats.onnx_structure import of_onnx
from workers.model_handle import ModelHandle

DATASET_FILE = UPLOAD_NAMES["dataset"]


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
    """{root, format, signature, facts, structure} of a model."""
    if assignment.file.stat().st_size == 0:
        raise InvalidModel("the file is empty")
    report("unpacking")
    name, root, entry = locate(
        assignment.file, root, assignment.max_archive_bytes, assignment.max_archive_files
    )
    if (declared := assignment.declared.get("format")) not in (None, name):
        raise UnsupportedFormat(
            f"the format {declared!r} was declared, but the file is {name}",
            param="format",
            hint="leave the format out: it is found by the file's content",
        )
    report("checking")
    if name == onnx.FORMAT:
        checked = onnx.check(root, entry)
        described = onnx.describe(root, entry, checked) | {"structure": of_onnx(checked[0])}
        report("asking the runtimes")
        held = ModelHandle(root, entry, name, "")
        described["facts"]["coverage"] = coverage(held, assignment.runtimes, assignment.scratch)
    else:
        source = Source(root, entry, assignment.declared)
        described = describe(name, source, assignment.runtimes, assignment.scratch, report)
    if "signature" not in FORMATS[name].declares:
        fix_declared(described["signature"], assignment.declared.get("signature"))
    return {"root": str(root), "format": name, **described}


def inspect_dataset(
    assignment: InspectAssignment, root: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """{root, format, samples, inputs, labels} of a dataset."""
    report("checking")
    if opening.format_of(assignment.file) == opening.NPZ and assignment.tokenizers is None:
        name, root = opening.NPZ, place(assignment.file, root, DATASET_FILE)
    else:
        name = opening.lay_out(
            assignment.file, root, assignment.max_archive_bytes, tokenizers=assignment.tokenizers
        )
    files = DatasetFiles(
        id=assignment.subject_id,
        digest="",
        root=root,
        format=name,
        name=assignment.filename,
        declared=assignment.declared,
    )
    if name == opening.NPZ:
        described = npz.describe(root / DATASET_FILE, assignment.max_archive_bytes)
        if not assignment.declared:
            return {"root": str(root), "format": name, **described}
    report("reading samples")
    described = opening.described(opening.records_of(files), assignment.max_archive_bytes)
    return {"root": str(root), "format": name, **described}


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
