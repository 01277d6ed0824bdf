"""Tests that run side by side in several processes, and those among them that must have the machine to themselves.

The readers-writers lock with a turnstile (Downey, The Little Book of Semaphores, 4.2): who waits for the empty room holds
the turnstile, so that the others cannot starve it.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from pathlib import Path


def side_by_side() -> bool:
    """Whether pytest-xdist started this process."""
    return "PYTEST_XDIST_WORKER" in os.environ


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """While the block runs no test that is `alone` runs elsewhere; and none at all where this one is.

    All processes give the same folder. Unlocking is explicit, since a process that the test forked and left would hold a
    closed file's lock on.
    """
    with ExitStack() as held:
        with _locked(folder / "turnstile", LOCK_EX):
            held.enter_context(_locked(folder / "room", LOCK_EX if alone else LOCK_SH))
        yield


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    with path.open("w") as file:
        flock(file, how)
        try:
            yield
        finally:
            flock(file, LOCK_UN)
