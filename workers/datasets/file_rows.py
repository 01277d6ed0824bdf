"""Rows of one size in a file, read by number, in flat resident memory however much was read."""

import os
from math import prod
from pathlib import Path
from typing import Any

import numpy as np


class FileRows:
    """An array in a file. Safe to pickle and to fork: a read moves no position that processes would share.

    Read by `pread` from the system's page cache, which all processes share, not through a mapping: of that, whole folios of up
    to 2 MB count as resident for one row.
    """

    def __init__(self, path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]):
        self._path = path
        self._offset = offset
        self._dtype = dtype
        self._shape = shape
        self._row_bytes = prod(shape[1:]) * dtype.itemsize
        self._file: int | None = None

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        """One row, in the machine's byte order."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._file is None:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        data = bytearray(self._row_bytes)
        if os.preadv(self._file, [data], self._offset + index * self._row_bytes) != self._row_bytes:
            raise OSError(f"{self._path} ends before row {index}")
        row = np.frombuffer(data, self._dtype).reshape(self._shape[1:])
        return row.astype(self._dtype.newbyteorder("="), copy=False)

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}
