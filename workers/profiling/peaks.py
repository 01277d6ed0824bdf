"""What the device reaches at best: measured once for a machine, a number of threads and a version of the library.

The engine's own threads and processors count: the measuring process is pinned as a launch of the engine is.
"""

import sys
from pathlib import Path
from typing import Any

from app.catalog.runtimes import RUNTIMES
from app.profiles.schemas import Peaks
from workers.distributions import versions_of
from workers.measure.environment import hardware_key
from workers.measure.launched import EngineUnderTest, Launched
from workers.memory import Memory

NAME = "peaks"
VERSION = 2  # goes up whenever something else is measured
COMMAND = (sys.executable, "-P", "-m", "workers.profiling.peaks_launch")
DISTURBED = 0.05
DEVICES = frozenset(("cpu", "cuda"))  # that PyTorch computes on


def peaks_of(
    engine: EngineUnderTest, cpus: list[int], folder: Path, memory: Memory | None, notes: list[str]
) -> Peaks | None:
    """The peaks of the engine's device with the engine's threads; None, and a note why, where nobody can measure them.

    Measured in a process of its own on these CPUs, which nobody else may use meanwhile, unless the memory has them. Where somebody
    did, a note says so, and they are not remembered.

    Raises:
        BurnishError: the measuring process died.
    """
    device = RUNTIMES[engine.runtime].device
    if device not in DEVICES:
        notes.append(
            f"the peaks of a device of kind {device} are not known, as PyTorch does not compute there"
        )
        return None
    threads = int(engine.params.get("threads") or len(cpus))
    cause = cause_of(device, threads, len(cpus))
    known = memory.recall(NAME, cause) if memory is not None else None
    if known is not None:
        return Peaks.model_validate_json(known)
    found, waited = measure(engine, cpus, folder, threads)
    if waited is not None and waited > DISTURBED:
        notes.append(
            f"others were at work on the processors for {waited:.0%} of the time while the device's peaks were measured, so they "
            "may be too low, and floors too high"
        )
    elif memory is not None:
        memory.remember(NAME, cause, found.model_dump_json().encode())
    return found


def cause_of(device: str, threads: int, cpus: int) -> dict[str, Any]:
    """Everything that decides them."""
    return {
        "version": VERSION,
        "device": device,
        "hardware": hardware_key(device),
        "threads": threads,
        "cpus": cpus,
        "packages": versions_of(("torch",)),
    }


def measure(
    engine: EngineUnderTest, cpus: list[int], folder: Path, threads: int
) -> tuple[Peaks, float | None]:
    """Measure now; also the share of the time that others kept the process from a processor, where the system tells it.

    Raises as `peaks_of`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Launched(engine, folder / "none", cpus, folder, COMMAND) as process:
        process.wait_ready()
        told = process.tell("peaks", device=RUNTIMES[engine.runtime].device, threads=threads)
    return Peaks.model_validate(told["peaks"]), told["waited_share"]
