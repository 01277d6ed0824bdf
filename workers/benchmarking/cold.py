"""Cold start: from nothing to the first answer, with the engine's files dropped from the page cache."""

import os
import time
from pathlib import Path
from statistics import median

from app.benchmarks.schemas import ColdStart
from workers.measure.launched import EngineUnderTest, Launched
from workers.measure.processors import choose_cpus

LAUNCHES = 3


def cold_start(engine: EngineUnderTest, feeds: Path, scratch: Path, launches: int = LAUNCHES) -> ColdStart:
    """Start the engine's process several times, and take the medians.

    Raises:
        BurnishError: the engine does not load or run.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    cpus = choose_cpus(engine.params)
    imports, loads, firsts, dropped = [], [], [], True
    for _ in range(launches):
        dropped = drop(engine.root) and dropped
        started = time.perf_counter()
        with Launched(engine, feeds, cpus, scratch) as process:
            process.wait_ready()
            imports.append((time.perf_counter() - started) * 1000)
            loads.append(process.tell("load")["load_ms"])
            firsts.append(process.tell("first")["ns"] / 1e6)
    return ColdStart(
        import_ms=median(imports),
        load_ms=median(loads),
        first_ms=median(firsts),
        launches=launches,
        dropped=dropped,
    )


def drop(root: Path) -> bool:
    """Ask the system to forget the cached content of files; False where it has no way to ask."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # what is not written yet cannot be dropped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True
