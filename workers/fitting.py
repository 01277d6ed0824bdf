"""Arrays held against a signature."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.errors import SignatureMismatch


def check_feeds(inputs: Sequence[Mapping[str, Any]], feeds: Mapping[str, np.ndarray]) -> None:
    """Hold arrays against a signature. Raises SignatureMismatch where names, dtypes or shapes do not fit."""
    wanted = [entry["name"] for entry in inputs]
    if set(wanted) != set(feeds):
        raise SignatureMismatch(
            f"the program takes {', '.join(map(repr, wanted))}; given were {', '.join(map(repr, feeds)) or 'none'}",
            hint="name the arrays like the program's inputs",
        )
    sizes: dict[str, tuple[int, str]] = {}
    for entry in inputs:
        _check_feed(entry, feeds[entry["name"]], sizes)


def _check_feed(entry: Mapping[str, Any], array: np.ndarray, sizes: dict[str, tuple[int, str]]) -> None:
    name = entry["name"]
    if array.dtype.name != entry["dtype"]:
        raise SignatureMismatch(
            f"input {name!r} takes {entry['dtype']}, given was {array.dtype.name}",
            param=name,
            hint="cast the array",
        )
    if array.ndim != len(entry["shape"]):
        raise SignatureMismatch(
            f"input {name!r} has {len(entry['shape'])} dimensions {list(entry['shape'])}, given was {list(array.shape)}",
            param=name,
        )
    for axis, (dim, size) in enumerate(zip(entry["shape"], array.shape, strict=True)):
        place = f"dimension {axis} of input {name!r}"
        if isinstance(dim, int) and dim != size:
            raise SignatureMismatch(f"{place} is {dim}, given was {size}", param=name)
        if isinstance(dim, str) and sizes.setdefault(dim, (size, place))[0] != size:
            known, where = sizes[dim]
            raise SignatureMismatch(f"{place} ({dim!r}) is {size}, but {where} is {known}", param=name)
