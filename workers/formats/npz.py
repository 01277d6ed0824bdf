"""`.npz` datasets: every array has the samples on its first axis; `labels` (or `label`, `y`, `targets`) holds the labels."""

from pathlib import Path
from typing import Any

import numpy as np

from app.errors import InvalidDataset
from workers.archive import too_large
from workers.npz import ArrayHeader, read_headers, read_rows
from workers.samples import label_array

FORMAT = "npz"
_CHUNK_BYTES = 16 * 1024 * 1024
_KINDS = "fiubSU"
_MOST_CLASSES = 100_000  # more distinct labels than this are values, not classes


def describe(path: Path, max_bytes: int) -> dict[str, Any]:
    """{samples, inputs, labels} of a dataset, after every row was read once.

    Raises:
        InvalidDataset: it is empty, the arrays differ in length, or an array cannot be read.
        PayloadTooLarge: it decompresses to more than `max_bytes`.
    """
    headers = read_headers(path)
    check(headers)
    if sum(header.shape[0] * header.row_bytes for header in headers) > max_bytes:
        raise too_large(max_bytes)
    label = label_array(headers)
    classes = read_through(path, headers, label)
    shown = {header.name: _shown(header) for header in headers}
    labels = {"name": label, **shown.pop(label), "classes": classes} if label else None
    return {"samples": headers[0].shape[0], "inputs": shown, "labels": labels}


def check(headers: list[ArrayHeader]) -> None:
    """Hold the arrays' headers against one another.

    Raises:
        InvalidDataset: there is nothing in it, lengths differ, or a dtype is none that a network takes.
    """
    if not headers:
        raise InvalidDataset(
            "the dataset holds no array", hint="numpy.savez('data.npz', input_name=array, labels=labels)"
        )
    lengths = {header.name: header.shape[0] for header in headers}
    if len(set(lengths.values())) > 1:
        raise InvalidDataset(
            f"the arrays hold different numbers of samples: {lengths}",
            hint="the first axis of every array counts the samples",
        )
    if next(iter(lengths.values())) == 0:
        raise InvalidDataset("the dataset holds no sample")
    for header in headers:
        if header.dtype.kind not in _KINDS:
            raise InvalidDataset(
                f"array {header.name!r} has the dtype {header.dtype}",
                param=header.name,
                hint="save numbers, booleans or text",
            )
        if header.row_bytes == 0:
            raise InvalidDataset(
                f"the samples of array {header.name!r} are empty: {list(header.shape[1:])}", param=header.name
            )


def read_through(path: Path, headers: list[ArrayHeader], label: str | None) -> int | None:
    """Read every row, so that a damaged file is found now; the number of classes where labels are integers.

    Raises:
        InvalidDataset: a row cannot be read, or a number is not finite.
    """
    classes: set[int] = set()
    start = 0
    rows_at_once = max(1, _CHUNK_BYTES // sum(header.row_bytes for header in headers))
    for rows in read_rows(path, headers, rows_at_once):
        for name, values in rows.items():
            if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
                bad = int(np.argwhere(~finite)[0][0])
                raise InvalidDataset(
                    f"array {name!r} holds a value that is not finite, in sample {start + bad}",
                    param=name,
                    hint="drop or mend the sample: NaN and infinity would spoil calibration and accuracy",
                )
        if label and rows[label].dtype.kind in "iu" and len(classes) <= _MOST_CLASSES:
            classes.update(np.unique(rows[label]).tolist())
        start += len(next(iter(rows.values())))
    return len(classes) if 0 < len(classes) <= _MOST_CLASSES else None


def _shown(header: ArrayHeader) -> dict[str, Any]:
    return {"dtype": header.dtype_name, "shape": list(header.shape[1:])}
