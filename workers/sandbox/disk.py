"""How much an attempt has on the scratch disk. Quotas need an administrator; looking needs nobody."""

import errno
import os
import stat
import time
from pathlib import Path

REST_SECONDS = 3.0
REST_SHARE = 20  # looking takes at most a twentieth of one processor's time
BLOCK_BYTES = 512  # of `st_blocks`, whatever the file system's are: stat(2)


class Disk:
    """The bytes below a folder, counted anew from time to time."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._next = 0.0
        self._used: float = 0

    def used_bytes(self) -> float:
        """As counted last: blocks, so that holes are free. Infinite where folders are nested too deeply to be looked into."""
        started = time.monotonic()
        if started >= self._next:
            self._used = used_bytes(self._folder)
            ended = time.monotonic()
            self._next = ended + max(REST_SECONDS, REST_SHARE * (ended - started))
        return self._used


def used_bytes(folder: Path) -> float:
    """The bytes of the blocks below a folder, without following links. What vanishes meanwhile counts nothing."""
    total, waiting = 0, [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    total += found.st_blocks * BLOCK_BYTES
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return float("inf")
    return total
