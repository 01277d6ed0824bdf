"""Namespaces of a child's own: network, mounts, processes, shared memory (namespaces(7))."""

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
from pathlib import Path

import psutil

from workers.nodes import addresses
from workers.sandbox.libc import LINUX, PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, call, prctl

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_SIOCSIFFLAGS, _SIOCSIFADDR = 0x8914, 0x8916
_IFF_UP = 1

NETWORK = "network"
EVERYTHING = frozenset({NETWORK, "mount", "pid", "ipc"})


def leave(*, only_network: bool = False) -> frozenset[str]:
    """Leave the system's namespaces for new ones, with a user namespace where it needs one: those that were left."""
    choices = [(EVERYTHING, _NEWNET | _NEWNS | _NEWPID | _NEWIPC), (frozenset({NETWORK}), _NEWNET)]
    for names, flags in choices[only_network:]:
        if _unshare(flags):
            _raise_loopback()
            return names
    return frozenset()


def number(node: int) -> bool:
    """Make this network namespace that of a node of several (`workers/nodes/addresses.py`); False where a setting is refused.

    In a namespace of our own alone.
    """
    given, free = socket.inet_aton(addresses.address(node)), addresses.ephemeral(node)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFADDR, struct.pack("16sH2s4s8x", b"lo", socket.AF_INET, b"", given))
    try:
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{free[0]} {free[-1]}")
    except OSError:  # a container's settings are read-only
        return False
    return True


def die_with_parent(expected_parent_pid: int) -> None:
    """Be killed when the thread that started this process ends; at once, where the parent is gone already."""
    with contextlib.suppress(OSError):
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != expected_parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def go_inside(namespaces: frozenset[str]) -> None:
    """Return in a new process; this one stays outside, reaps what is orphaned, and ends as the new one ends.

    In a PID namespace there is another between them: the first process of the namespace, with which all others end.
    """
    with contextlib.suppress(OSError):
        prctl(
            PR_SET_CHILD_SUBREAPER, 1
        )  # what leaves its parents stays below us, where the supervisor finds it
    reader, writer = os.pipe()
    keeper = os.getpid()
    child = os.fork()
    if child:
        os.close(writer)
        _end_as(_wait_for(child, reader, alone="pid" in namespaces))
    os.close(reader)
    if "pid" in namespaces:
        _die_with_reader(writer)
        inner = os.fork()
        if inner:
            os.write(writer, struct.pack("i", _reap_until(inner)))
            os._exit(0)
        die_with_parent(1)
    else:
        die_with_parent(keeper)
    os.close(writer)


def _unshare(flags: int) -> bool:
    uid, gid = os.geteuid(), os.getegid()
    with contextlib.suppress(OSError):
        call("unshare", flags)
        return True
    try:
        call("unshare", flags | _NEWUSER)
    except OSError:
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return True


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _die_with_reader(writer: int) -> None:
    """`die_with_parent` across the border of a PID namespace: there, the parent's id is always 0."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    poll = select.poll()
    poll.register(writer, 0)
    if poll.poll(0):
        os._exit(1)


def _reap_until(child: int) -> int:
    """Reap every process that ends; the wait status of this one."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return status


def _wait_for(child: int, reader: int, *, alone: bool) -> int:
    """The wait status of the process inside, as it says itself or as the one between us says; `alone`: nobody outlives it."""
    status = _reap_until(child)
    told = os.read(reader, 4)
    if LINUX and not alone:
        _kill_the_rest()
    return int(struct.unpack("i", told)[0]) if told else status


def _kill_the_rest() -> None:
    """What the child left behind: it is ours by now."""
    while left := psutil.Process().children(recursive=True):
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(ChildProcessError):
            os.wait()


def _end_as(status: int) -> None:
    """End this process with a wait status: the same exit code, or by the same signal."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(OSError):  # SIGKILL cannot be set
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
