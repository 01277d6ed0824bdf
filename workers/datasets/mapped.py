"""Rows of one size in a file, memory-mapped, in flat resident memory however much was read."""

import mmap
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

_LET_GO_BYTES = 32 * 1024 * 1024


class MappedRows:
    """An array in a file, its rows read by number. Safe to pickle and to fork: each process maps the file itself.

    A mapping's pages count as resident while they are mapped, so they are unmapped after every 32 MiB; the system keeps
    them in its page cache as long as there is room.
    """

    def __init__(self, path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]):
        self._path = path
        self._offset = offset
        self._dtype = dtype
        self._shape = shape
        self._row_bytes = prod(shape[1:]) * dtype.itemsize
        self._map: mmap.mmap | None = None
        self._read = 0

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        """A copy of one row, in the machine's byte order."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._map is None:
            with self._path.open("rb") as stream:
                self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        start = self._offset + index * self._row_bytes
        row = np.frombuffer(self._map[start : start + self._row_bytes], self._dtype).reshape(self._shape[1:])
        self._read += self._row_bytes
        if self._read > _LET_GO_BYTES:
            self._map.madvise(mmap.MADV_DONTNEED)
            self._read = 0
        return row.astype(self._dtype.newbyteorder("="))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None, "_read": 0}
