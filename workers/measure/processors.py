"""The processors that a measurement may use. Imports next to nothing: a launch pins itself before it loads anything."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.sandbox import cgroups

SYSTEM_CPUS = Path("/sys/devices/system/cpu")


def usable_processors() -> int:
    """How many processors this process may use at once: its affinity, and its cgroup's quota rounded down."""
    allowed = len(allowed_cpus())
    quota = cgroups.cores()
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def choose_cpus(params: Mapping[str, Any]) -> list[int]:
    """The CPUs to pin an engine to: one a thread that its parameters ask for, all usable ones where they ask for none.

    A core of its own for each thread as long as there are cores; the highest numbers first, as the first CPU serves
    most interrupts. The answer is shorter than asked for where the machine has no more.
    """
    usable = usable_processors()
    threads = int(params.get("threads") or 0) * int(params.get("inter_op_threads") or 1)
    return sorted(_spread(allowed_cpus())[: min(threads or usable, usable)])


def allowed_cpus() -> list[int]:
    """The numbers of the CPUs that the scheduler may put this process on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(cpus: list[int]) -> list[int]:
    """Keep this thread, and those that it will start, on these CPUs; the CPUs that it may use from now on."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)
    return allowed_cpus()


def _spread(cpus: list[int]) -> list[int]:
    """The highest first, and the second thread of a core behind the first thread of every core."""
    seen: dict[str, int] = {}
    turns = []
    for number in sorted(cpus, reverse=True):
        core = _siblings(number)
        seen[core] = seen.get(core, 0) + 1
        turns.append((seen[core], -number))
    return [-negative for _, negative in sorted(turns)]


def _siblings(number: int) -> str:
    try:
        return (SYSTEM_CPUS / f"cpu{number}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)
