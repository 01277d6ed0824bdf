"""Landlock: rules on files that a process lays on itself, without privileges (landlock(7); kernel 5.13, useful from 6.2)."""

import contextlib
import ctypes
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from workers.sandbox.libc import (
    LANDLOCK_ADD_RULE,
    LANDLOCK_CREATE_RULESET,
    LANDLOCK_RESTRICT_SELF,
    system_call,
)
from workers.sandbox.paths import Paths

_VERSION_FLAG = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK, _TRUNCATE, _IOCTL_DEV = 1 << 6, 1 << 11, 1 << 14, 1 << 15
_RIGHTS = {
    1: (1 << 13) - 1,
    2: (1 << 14) - 1,
    3: (1 << 15) - 1,
    4: (1 << 15) - 1,
}  # by version; later: 16 rights
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract sockets, signals

_READ = _EXECUTE | _READ_FILE | _READ_DIR
_DEVICE = _READ_FILE | _WRITE_FILE | _READ_DIR | _IOCTL_DEV

TRUNCATION = 3  # the first version that keeps files from being emptied
SCOPES = 6  # the first version that keeps signals in


@dataclass(frozen=True)
class Landlock:
    """What was laid on this process: the kernel's version of Landlock, 0 where there is none."""

    version: int

    @property
    def holds_files(self) -> bool:
        """Whether files elsewhere can be neither read, nor written, nor emptied."""
        return self.version >= TRUNCATION

    @property
    def holds_signals(self) -> bool:
        """Whether processes outside can be neither signalled nor traced."""
        return self.version >= SCOPES


def version() -> int:
    """The kernel's version of Landlock, 0 where there is none."""
    try:
        return system_call(LANDLOCK_CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def restrict(paths: Paths, *, without_network: bool) -> Landlock:
    """Allow this process and all that it starts these paths and nothing else. Needs no new privileges.

    `without_network`: no TCP either, where the kernel's version knows such rules.
    """
    known = version()
    if not known:
        return Landlock(0)
    handled = _RIGHTS.get(known, (1 << 16) - 1)
    fields = [handled]
    if known >= 4:
        fields.append(_TCP if without_network else 0)
    if known >= SCOPES:
        fields.append(_SCOPES)
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    try:
        ruleset = system_call(LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    except OSError:
        return Landlock(0)
    try:
        for path in paths.readable:
            _allow(ruleset, path, _READ & handled)
        for path in paths.listable:
            _allow(ruleset, path, _READ_DIR)
        for path in paths.proc:
            _allow(ruleset, path, (_READ | (_WRITE_FILE | _TRUNCATE if paths.proc_writable else 0)) & handled)
        for path in paths.devices:
            _allow(ruleset, path, _DEVICE & handled)
        for path in paths.writable:
            _allow(ruleset, path, handled & ~(_MAKE_CHAR | _MAKE_BLOCK))
        system_call(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    except OSError:
        return Landlock(0)
    finally:
        os.close(ruleset)
    return Landlock(known)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    """Nothing happens where there is no such path."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(handle).st_mode):
                rights &= _OF_FILES
            rule = struct.pack("=Qi", rights, handle)
            system_call(
                LANDLOCK_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.create_string_buffer(rule, len(rule)), 0
            )
        finally:
            os.close(handle)
