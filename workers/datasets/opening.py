"""Uploaded datasets of each format, opened and described."""

from pathlib import Path
from typing import Any

import numpy as np

from app.errors import InvalidDataset, InvalidModel
from app.storage.disk import link_or_copy
from workers.archive import expand, is_archive, is_zip, too_large
from workers.assignment import DatasetFiles
from workers.datasets.records import RecordSamples
from workers.datasets.tokenizing import FOLDER as TOKENIZERS

NPZ, TAR, PARQUET = "npz", "tar", "parquet"
FILES = {NPZ: "data.npz", TAR: "data.tar", PARQUET: "data.parquet"}
_PARQUET_HEAD = b"PAR1"
_MOST_CLASSES = 100_000  # more distinct labels than this are values, not classes
_MOST_READ = 20_000  # samples of a `.tar` that an inspection decodes, spread over it; labels are read of all


def format_of(file: Path) -> str:
    """What a dataset is, by its first bytes. What is nothing else is held to be an `.npz`, whose reader says what is wrong."""
    with file.open("rb") as stream:
        if stream.read(len(_PARQUET_HEAD)) == _PARQUET_HEAD:
            return PARQUET
    return TAR if is_archive(file) and not is_zip(file) else NPZ


def lay_out(file: Path, root: Path, max_bytes: int, tokenizers: Path | None = None) -> str:
    """Lay an upload into the folder `root`, which is made; its format. A compressed `.tar` is expanded.

    `tokenizers` is what `InspectAssignment` says: copied too, so that the dataset holds all that it is read by.

    Raises:
        PayloadTooLarge: it expands to more than `max_bytes`. InvalidDataset: it is damaged.
    """
    found = format_of(file)
    root.mkdir(parents=True)
    for source in sorted(tokenizers.glob("*/*")) if tokenizers is not None else ():
        target = root / TOKENIZERS / source.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source, target)
    try:
        if found == TAR and expand(file, root / FILES[TAR], max_bytes):
            return found
    except InvalidModel as error:
        raise InvalidDataset(error.detail, hint=error.hint) from error
    link_or_copy(file, root / FILES[found])
    return found


def records_of(files: DatasetFiles) -> RecordSamples:
    """A dataset that is read as records. Raises InvalidDataset."""
    path = files.root / FILES[files.format]
    if files.format == TAR:
        from workers.datasets.tar import TarRecords

        return RecordSamples(TarRecords(path), files)
    if files.format == PARQUET:
        from workers.datasets.parquet import ParquetRecords

        return RecordSamples(ParquetRecords(path), files)
    from workers.datasets.arrays import ArrayRecords

    return RecordSamples(ArrayRecords(path), files)


def described(samples: RecordSamples, max_bytes: int) -> dict[str, Any]:
    """{samples, inputs, labels} of a dataset, after its samples were read: all, or many of a large `.tar`.

    Raises:
        InvalidDataset: a sample cannot be read, differs from the first, or is not finite.
        PayloadTooLarge: it unpacks to more than `max_bytes`.
    """
    if getattr(samples.records, "unpacked_bytes", 0) > max_bytes:
        raise too_large(max_bytes)
    classes = _read_all(samples) if not samples.numbered else _read_some(samples)
    kinds = {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in samples.inputs.items()}
    labels = None
    if samples.labels is not None:
        dtype, shape = samples.labels
        told = len(classes) if 0 < len(classes) <= _MOST_CLASSES else None
        labels = {"name": samples.label_name, "dtype": dtype, "shape": list(shape), "classes": told}
    return {"samples": samples.count, "inputs": kinds, "labels": labels}


def _read_all(samples: RecordSamples) -> set[int]:
    classes: set[int] = set()
    for index, (feeds, labels) in enumerate(samples.batches(1)):
        _check(samples, index, {name: values[0] for name, values in feeds.items()}, labels)
        _count(classes, labels)
    return classes


def _read_some(samples: RecordSamples) -> set[int]:
    classes: set[int] = set()
    every = max(1, -(-samples.count // _MOST_READ))
    for index in range(samples.count):
        if index % every == 0:
            feeds, label = samples.sample(index)
            _check(samples, index, feeds, label)
        else:
            label = samples.label(index)
        _count(classes, label)
    return classes


def _count(classes: set[int], label: np.ndarray | None) -> None:
    if label is not None and label.dtype.kind in "iu" and len(classes) <= _MOST_CLASSES:
        classes.update(np.ravel(label).tolist())


def _check(
    samples: RecordSamples, index: int, feeds: dict[str, np.ndarray], label: np.ndarray | None
) -> None:
    for name, values in [*feeds.items(), *([] if label is None else [("labels", label)])]:
        if values.size == 0:
            raise InvalidDataset(f"{samples.records.where(index)}: {name!r} is empty", param=name)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InvalidDataset(
                f"{samples.records.where(index)}: {name!r} holds a value that is not finite",
                param=name,
                hint="drop or mend the sample: NaN and infinity would spoil calibration and accuracy",
            )
