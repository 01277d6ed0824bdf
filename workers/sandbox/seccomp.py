"""A filter on system calls: those that no model needs, and sockets beyond the families that are allowed (seccomp(2))."""

import ctypes
import errno
import socket
import struct
from collections.abc import Iterable

from workers.sandbox.libc import MACHINE, SECCOMP, system_call
from workers.sandbox.numbers import CLONE, CLONE3, METADATA, NEEDLESS, SOCKET

_SET_MODE_FILTER = 1
_FLAG_SPEC_ALLOW = 1 << 2  # without it, older kernels slow the process down against Spectre v4
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_X32 = 0x40000000

_NUMBER, _ARCHITECTURE, _ARGUMENT = (
    0,
    4,
    16,
)  # offsets in struct seccomp_data; arguments are 64 bits, low half first
_LOAD, _EQUAL, _LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000

_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW… of clone(2)

NETWORK = (socket.AF_INET, socket.AF_INET6, 16)  # 16: AF_NETLINK, by getifaddrs(3)
LOCAL = (
    socket.AF_UNIX,
)  # where no socket of others is seen: Landlock lets a process connect to all that it finds


def restrict(families: Iterable[int], *, keep_metadata: bool) -> bool:
    """Filter this process and all that it starts; False where the kernel or the machine has no filters.

    `keep_metadata`: changes of modes, owners and times seem to succeed and change nothing, as Landlock does not see them.
    Needs no new privileges.
    """
    if MACHINE not in _ARCHITECTURES:
        return False
    program = b"".join(_program(tuple(families), keep_metadata))
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
    try:
        system_call(SECCOMP[MACHINE], _SET_MODE_FILTER, _FLAG_SPEC_ALLOW, described)
    except OSError:
        return False
    return True


def _program(families: tuple[int, ...], keep_metadata: bool) -> Iterable[bytes]:
    yield _step(_LOAD, _ARCHITECTURE)
    yield _step(_EQUAL, _ARCHITECTURES[MACHINE], 1, 0)
    yield _step(_RETURN, _KILL)
    yield _step(_LOAD, _NUMBER)
    yield _step(_LEAST, _X32, 0, 1)
    yield _step(_RETURN, _ERRNO | errno.ENOSYS)
    for number in NEEDLESS[MACHINE]:
        yield from _on(number, _ERRNO | errno.EPERM)
    for number in METADATA[MACHINE] if keep_metadata else ():
        yield from _on(number, _ERRNO)
    yield from _on(
        CLONE3, _ERRNO | errno.ENOSYS
    )  # its flags are out of a filter's sight; libraries then use clone
    yield _step(_EQUAL, CLONE[MACHINE], 0, 4)
    yield _step(_LOAD, _ARGUMENT)
    yield _step(_ANY_BIT, _NEW_NAMESPACES, 0, 1)
    yield _step(_RETURN, _ERRNO | errno.EPERM)
    yield _step(_RETURN, _ALLOW)
    yield _step(_EQUAL, SOCKET[MACHINE], 0, len(families) + 3)
    yield _step(_LOAD, _ARGUMENT)
    for left, family in zip(range(len(families), 0, -1), families, strict=True):
        yield _step(_EQUAL, family, left, 0)
    yield _step(_RETURN, _ERRNO | errno.EACCES)
    yield _step(_RETURN, _ALLOW)
    yield _step(_RETURN, _ALLOW)


def _on(number: int, answer: int) -> Iterable[bytes]:
    yield _step(_EQUAL, number, 0, 1)
    yield _step(_RETURN, answer)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One struct sock_filter."""
    return struct.pack("HBBI", code, if_true, if_false, value)
