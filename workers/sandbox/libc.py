"""The system calls that Python has no function for. Each raises OSError where the kernel refuses it."""

import ctypes
import os
import platform
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

LINUX = sys.platform == "linux"
MACHINE = platform.machine()

# System calls of 5.0 and later have one number on every machine (Linux: arch/*/kernel/syscalls/*.tbl).
MOUNT_SETATTR = 442
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SECCOMP = {"x86_64": 317, "aarch64": 277}


def call(name: str, *arguments: Any) -> int:
    """A function of the C library.

    Raises:
        OSError: it failed, or there is no such function here.
    """
    if not LINUX:
        raise OSError(f"{name} is Linux's")
    return _checked(name, getattr(_library(), name)(*map(_argument, arguments)))


def system_call(number: int | None, *arguments: Any) -> int:
    """A system call by its number.

    Raises:
        OSError: it failed, or its number on this machine is not known.
    """
    if not LINUX or number is None:
        raise OSError("that system call's number is not known here")
    return _checked(
        f"syscall {number}", _library().syscall(ctypes.c_long(number), *map(_argument, arguments))
    )


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument.

    Raises:
        OSError: it failed.
    """
    call("prctl", option, value, 0, 0, 0)


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


def _argument(value: Any) -> Any:
    """As the C library takes it: integers as wide as a register, paths as bytes."""
    if isinstance(value, int):
        return ctypes.c_long(value)
    return os.fsencode(value) if isinstance(value, str | os.PathLike) else value


def _checked(name: str, result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result
