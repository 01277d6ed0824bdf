"""A dataset in words that another process opens it by."""

from pathlib import Path
from typing import Any

from app.errors import InvalidDataset
from workers.assignment import DatasetFiles
from workers.context import PassContext, Samples
from workers.datasets.opening import records_of
from workers.datasets.records import RecordSamples
from workers.datasets.rows import RowSamples, write_rows
from workers.npz import read_headers
from workers.samples import NpzSamples, SyntheticSamples

STAGE = "training"


def describe(samples: Samples, ctx: PassContext | None = None) -> dict[str, Any]:
    """What `reopened` takes, as JSON, with `labels`: {dtype, shape} without the sample axis, or None.

    Samples that cannot be read by number are written to `ctx.work` as rows; without a `ctx` each process that opens them does
    so for itself.

    Raises:
        InvalidDataset: a sample cannot be read.
    """
    labels = samples.labels
    found: dict[str, Any] = {
        "labels": None if labels is None else {"dtype": labels[0], "shape": list(labels[1])}
    }
    if isinstance(samples, NpzSamples):
        if not samples.numbered and ctx is not None and ctx.work is not None:
            folder = ctx.work / f"rows-{samples.digest[:16]}"
            if not folder.exists():
                folder.mkdir()
                write_rows(samples, folder, lambda done, total: ctx.report(done, total, "unpacking samples"))
            return found | {"rows": str(folder)}
        return found | {"npz": str(samples.path), "digest": samples.digest}
    if isinstance(samples, RecordSamples):
        return found | {"files": samples.files.model_dump(mode="json")}
    if isinstance(samples, SyntheticSamples):
        inputs = {name: [dtype, list(shape)] for name, (dtype, shape) in samples.inputs.items()}
        return found | {"synthetic": {"seed": samples.seed, "count": samples.count, "inputs": inputs}}
    raise InvalidDataset("these samples cannot be trained on", stage=STAGE)


def reopened(described: dict[str, Any]) -> RowSamples | NpzSamples | RecordSamples | SyntheticSamples:
    """The samples that were described."""
    if "rows" in described:
        return RowSamples(Path(described["rows"]))
    if "npz" in described:
        path = Path(described["npz"])
        return NpzSamples(path, described["digest"], read_headers(path))
    if "files" in described:
        return records_of(DatasetFiles.model_validate(described["files"]))
    made = described["synthetic"]
    inputs = {name: (dtype, tuple(shape)) for name, (dtype, shape) in made["inputs"].items()}
    return SyntheticSamples(made["seed"], made["count"], inputs)
