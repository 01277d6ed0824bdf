"""Writing to disk while bytes still arrive, so that making them durable in the end waits for little."""

import ctypes
from collections.abc import Callable
from functools import lru_cache

STARTED_BYTES = 16 * 1024 * 1024
_START = 2  # SYNC_FILE_RANGE_WRITE of sync_file_range(2): starts, and does not wait


class Writeback:
    """Follows what is appended to one file. Does nothing where the system cannot (it is Linux's alone), nor on an error:
    the fsync in the end writes everything, and raises."""

    def __init__(self, descriptor: int, offset: int):
        self._descriptor = descriptor
        self._started = self._written = offset

    def wrote(self, size_bytes: int) -> None:
        """So many bytes more are in the file."""
        self._written += size_bytes
        if (start := _sync_file_range()) and self._written - self._started >= STARTED_BYTES:
            start(self._descriptor, self._started, self._written - self._started, _START)
            self._started = self._written


@lru_cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function
