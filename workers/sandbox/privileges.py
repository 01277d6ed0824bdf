"""Fewer rights for this process and for all that it starts."""

import ctypes

from workers.sandbox.libc import (
    PR_CAPBSET_DROP,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    call,
    prctl,
)

_CAPABILITY_VERSION_3 = 0x20080522  # capget(2)


def drop() -> bool:
    """No capabilities, and none ever again, by no program that is executed; False where the system has no such thing."""
    try:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    except OSError:
        return False
    _empty_the_bounding_set()
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())
    return True


def close_memory() -> None:
    """Nobody of the same user reads this process's memory or environment in /proc, or traces it (prctl(2), ptrace(2)).

    The worker's environment holds the database's password; its children run as the same user.
    """
    try:
        prctl(PR_SET_DUMPABLE, 0)
    except OSError:
        return


def _empty_the_bounding_set() -> None:
    """Needs CAP_SETPCAP; where that is missing, no new privileges is enough."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            return
