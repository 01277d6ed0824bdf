"""A dataset in words that another process opens it by."""

import shutil
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import InvalidDataset
from workers.assignment import DatasetFiles
from workers.context import PassContext, Samples
from workers.datasets.opening import records_of
from workers.datasets.records import RecordSamples
from workers.datasets.rows import RowSamples, write_rows
from workers.npz import read_headers
from workers.samples import NpzSamples, SyntheticSamples
from workers.training.task import STAGE

ROWS_VERSION = 1  # of how samples are decoded, transformed and laid out


def describe(samples: Samples, ctx: PassContext | None = None, cache: str = "auto") -> dict[str, Any]:
    """What `reopened` takes, as JSON, with `labels`: {dtype, shape} without the sample axis, or None.

    Samples that must be decoded or transformed are written as rows first (`cache` as `LoaderParams` has it; `auto`: where half of
    the disk that is free holds them): as a step of its own, which other jobs find, where `ctx` stores steps. So are those that
    cannot be read by number, whatever `cache` says. Without a `ctx` each process that opens such samples does so for itself.

    Raises:
        InvalidDataset: a sample cannot be read.
    """
    labels = samples.labels
    found: dict[str, Any] = {
        "labels": None if labels is None else {"dtype": labels[0], "shape": list(labels[1])}
    }
    if isinstance(samples, SyntheticSamples):
        inputs = {name: [dtype, list(shape)] for name, (dtype, shape) in samples.inputs.items()}
        return found | {"synthetic": {"seed": samples.seed, "count": samples.count, "inputs": inputs}}
    if not isinstance(samples, NpzSamples | RecordSamples):
        raise InvalidDataset("these samples cannot be trained on", stage=STAGE)
    if ctx is not None and ctx.work is not None and _to_rows(samples, ctx.work, cache):
        return found | {"rows": str(_rows(samples, ctx, ctx.work, shared=cache in ("auto", "disk")))}
    if isinstance(samples, NpzSamples):
        return found | {"npz": str(samples.path), "digest": samples.digest}
    return found | {"files": samples.files.model_dump(mode="json")}


def _to_rows(samples: NpzSamples | RecordSamples, work: Path, cache: str) -> bool:
    if not samples.numbered:
        return True
    if isinstance(samples, NpzSamples):
        return False  # they are rows already
    return cache == "disk" or (cache == "auto" and 2 * rows_bytes(samples) <= shutil.disk_usage(work).free)


def rows_bytes(samples: Samples) -> int:
    """What the samples need as rows."""
    kinds = [*samples.inputs.values(), *([] if samples.labels is None else [samples.labels])]
    return samples.count * sum(
        prod(shape) * np.dtype(dtype).itemsize for dtype, shape in kinds if dtype != "string"
    )


def _rows(samples: NpzSamples | RecordSamples, ctx: PassContext, work: Path, *, shared: bool) -> Path:
    def write(folder: Path) -> dict[str, Any]:
        write_rows(samples, folder, lambda done, total: ctx.report(done, total, "preparing samples"))
        return {"samples": samples.count, "bytes": rows_bytes(samples)}

    if shared and ctx.stored is not None:
        cause = {"samples": samples.digest, "rows": ROWS_VERSION, "pillow": version("pillow")}
        return ctx.stored("prepare:samples", cause, write)
    folder = work / f"rows-{samples.digest[:32]}"
    if not folder.exists():
        folder.mkdir()
        write(folder)
    return folder


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
