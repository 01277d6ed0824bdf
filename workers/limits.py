"""What a child may use, and what holds it to that. Everything here is Linux; elsewhere each part says what is missing.

| limit | by | where that is missing |
| --- | --- | --- |
| life | PR_SET_PDEATHSIG | the supervisor kills the group; a killed supervisor leaves orphans |
| files | RLIMIT_FSIZE, RLIMIT_NOFILE, no core dumps | - |
| memory | a watchdog on resident memory (address space limits break CUDA), and the child is the kernel's first victim | - |
| network | a network namespace that holds a loopback alone | the network stays on; forbid it around the worker |
| secrets | an environment of known names | - |
"""

import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_OOM_SCORE = 500  # of 1000: the kernel takes the child before the worker

_OPEN_FILES = 4096
_MEMORY_SHARE = 0.8

_KEPT_NAMES = {"PATH", "LANG", "LANGUAGE", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "TERM"}
_KEPT_PREFIXES = ("LC_", "PYTHON", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "MALLOC_")


def die_with_parent(expected_parent_pid: int) -> None:
    """Be killed when the thread that started this process ends; at once, where the parent is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != expected_parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def confine(expected_parent_pid: int, file_bytes: int) -> None:
    """The first thing that a child does, before it imports anything that reads what a user uploaded."""
    cut_network()
    die_with_parent(expected_parent_pid)  # after the namespace: new credentials clear the death signal
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_FSIZE, file_bytes)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # too large a file is an OSError, not a death
    offer_to_oom_killer()


def cut_network() -> bool:
    """Leave the network for a namespace with a loopback alone; False where the kernel does not let us."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNET) != 0:
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
            return False
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    return True


def offer_to_oom_killer() -> None:
    """Where memory runs out, the kernel kills this process before the worker that watches it."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text(str(_OOM_SCORE))


def clean_environment(home: Path, temporary: Path, **more: str) -> dict[str, str]:
    """This process's environment less everything that could be a secret: known names alone are kept."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT_NAMES or name.startswith(_KEPT_PREFIXES)
    }
    return {**kept, "HOME": str(home), "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1", **more}


def memory_limit_bytes(configured: int) -> int:
    """Most resident memory of a child: as configured, else 80% of the machine's or of this cgroup's, if that is less."""
    if configured:
        return configured
    return int(
        min([psutil.virtual_memory().total, *_cgroup_numbers("memory.max", "memory.limit_in_bytes")])
        * _MEMORY_SHARE
    )


def cgroup_cores() -> float | None:
    """The cores that this cgroup may use at once by its quota, None where there is none (v2: cpu.max; v1: cfs_quota)."""
    quotas = []
    for file in _cgroup_files("cpu.max", "cpu"):
        if file.is_file():
            quota, period = file.read_text().split()
            quotas += [int(quota) / int(period)] if quota.isdigit() else []
    for file in _cgroup_files("cpu.cfs_quota_us", "cpu"):
        if file.is_file() and (quota := file.read_text().strip()).isdigit():
            quotas.append(int(quota) / int(file.with_name("cpu.cfs_period_us").read_text()))
    return min(quotas, default=None)


def resident_bytes(processes: Iterable[psutil.Process], enough: int) -> int:
    """Resident memory of processes in bytes. Shared pages are counted once each, which is slow, only if it is over `enough`."""
    sizes = [(process, _rss(process)) for process in processes]
    total = sum(size for _, size in sizes)
    if total <= enough:
        return total
    return sum(_pss(process, size) for process, size in sizes)


def oom_kills() -> int:
    """How often the kernel killed for want of memory so far, on this machine and in this cgroup."""
    counters = [Path("/proc/vmstat"), *_cgroup_files("memory.events"), *_cgroup_files("memory.oom_control")]
    total = 0
    for file in counters:
        if file.is_file():
            rows = (line.split() for line in file.read_text().splitlines())
            total += sum(int(row[1]) for row in rows if len(row) == 2 and row[0] == "oom_kill")
    return total


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _pss(process: psutil.Process, rss: int) -> int:
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return rss
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), rss)


def _cgroup_files(name: str, controller: str = "memory") -> list[Path]:
    """A file of this process's cgroup and of every one above it, in v2's hierarchy and in v1's of a controller."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            root = Path("/sys/fs/cgroup") / (controllers and controller)
            folder = root / path.lstrip("/")
            files += [parent / name for parent in (folder, *folder.parents) if parent.is_relative_to(root)]
    return files


def _cgroup_numbers(*names: str) -> list[int]:
    texts = [file.read_text().strip() for name in names for file in _cgroup_files(name) if file.is_file()]
    return [int(text) for text in texts if text.isdigit()]
