"""A process's own limits, its environment, and how much memory it holds."""

import os
import resource
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil

from workers.sandbox import cgroups

_OOM_SCORE = 500  # of 1000: the kernel takes the child before the worker
_OPEN_FILES = 4096
_MEMORY_SHARE = 0.8

_KEPT_NAMES = {
    "PATH",
    "LANG",
    "LANGUAGE",
    "TZ",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "TERM",
    "CXX",
}
_KEPT_PREFIXES = ("LC_", "PYTHON", "CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "MALLOC_")


def limit_files(file_bytes: int) -> None:
    """No file larger than this, few open ones, no core dumps."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_FSIZE, file_bytes)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # too large a file is an OSError, not a death


def limit_processes(most: int) -> bool:
    """So many processes and threads beyond those that the user has already; False where root is exempt."""
    if os.geteuid() == 0:
        return False
    _lower(resource.RLIMIT_NPROC, _threads_of_user() + most)
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
    return int(min([psutil.virtual_memory().total, *cgroups.memory_bytes()]) * _MEMORY_SHARE)


def resident_bytes(processes: Iterable[psutil.Process], enough: int) -> int:
    """Resident memory of processes in bytes. Shared pages are counted once each, which is slow, only if it is over `enough`."""
    sizes = [(process, _rss(process)) for process in processes]
    total = sum(size for _, size in sizes)
    if total <= enough:
        return total
    return sum(_pss(process, size) for process, size in sizes)


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _threads_of_user() -> int:
    """Threads of this user's processes, as far as they are seen."""
    uid = os.geteuid()
    count = 0
    for process in psutil.process_iter():
        try:
            count += process.num_threads() if process.uids().effective == uid else 0
        except psutil.Error:
            continue
    return count


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
