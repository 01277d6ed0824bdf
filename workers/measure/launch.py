"""One launch: a fresh process that loads one engine and times blocks of inferences when it is told to.

`python -m workers launch SPEC.json`. The process says what it did last and is answered with what to do next:
`loaded` once the engine is there, `block` after each block; the answers are {do: block, warm_up, count} and {do: end}.
"""

import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from workers.limits import die_with_parent
from workers.protocol import SupervisorPipe


class LaunchSpec(BaseModel):
    """What a launch needs to know."""

    model_config = ConfigDict(extra="forbid")

    parent_pid: int
    runtime: str
    root: Path
    entry: str
    params: dict[str, Any]
    feeds: Path  # an .npz, one array an input
    cpus: list[int]


def main(path: Path) -> int:
    """Serve one launch until told to end."""
    spec = LaunchSpec.model_validate_json(path.read_bytes())
    die_with_parent(spec.parent_pid)
    pipe = SupervisorPipe.take_stdio()
    os.sched_setaffinity(0, spec.cpus)  # before the runtime makes its threads

    from app.catalog.runtimes import RUNTIMES
    from workers import runtimes
    from workers.runtimes.base import Engine

    runtime = runtimes.registry.get(spec.runtime)
    params = RUNTIMES[spec.runtime].params.model_validate(spec.params)
    with np.load(spec.feeds, allow_pickle=False) as stored:
        feeds = dict(stored)
    before = resident_bytes()
    reset_peak()
    started = time.perf_counter_ns()
    engine = runtime.load(Engine(spec.root, spec.entry), params)
    load_ns = time.perf_counter_ns() - started

    answer = pipe.ask("loaded", load_ms=load_ns / 1e6)
    while answer["do"] == "block":
        for _ in range(answer["warm_up"]):
            engine.run(feeds)
        times = []
        for _ in range(answer["count"]):
            begun = time.perf_counter_ns()
            engine.run(feeds)
            times.append(time.perf_counter_ns() - begun)
        answer = pipe.ask("block", ns=times, memory_bytes=max(0, peak_bytes() - before))
    return 0


def resident_bytes() -> int:
    """Resident memory of this process in bytes."""
    return _status("VmRSS") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_bytes() -> int:
    """Most resident memory since `reset_peak`, in bytes."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak() -> None:
    """Forget the peak so far (proc(5), clear_refs); where the kernel refuses, imports count too."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
