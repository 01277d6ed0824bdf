"""Times one engine by itself, where there is nothing to compare it with: beside its profile, and in a benchmark's points."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from workers.measure.launched import EngineUnderTest, Launched
from workers.measure.processors import choose_cpus
from workers.measure.timed import BLOCK_SECONDS, Timed, block, load, note, runs_of_block, side

LAUNCHES = 5

Report = Callable[[int, int, str], None]


def time_alone(
    engine: EngineUnderTest,
    feeds: Path,
    scratch: Path,
    *,
    batch: int = 1,
    launches: int = LAUNCHES,
    seconds: float,
    seed: int = 0,
    report: Report = lambda done, total, message: None,
) -> dict[str, Any]:
    """Launch an engine anew several times, and time it in blocks on the feeds of a file that hold `batch` samples a run.

    The answer: a side of `latency.compare_latency`, with `variation` (the standard deviation of the launches' medians over
    their mean), `pinned_cpus` and `waited_share`.

    Raises:
        BurnishError: the engine's own error, or the death of its process.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    cpus = choose_cpus(engine.params)
    timed, plan = Timed(), (0, 0)
    for number in range(launches):
        report(number, launches, f"launch {number + 1} of {launches}")
        with Launched(engine, feeds, cpus, scratch) as process:
            process.wait_ready()
            run_ns, loaded = load(process)
            plan = plan if number else _plan(run_ns, seconds / launches)
            timed.blocks.append([])
            for _ in range(plan[1]):
                block(timed, process, plan[0])
            note(timed, process, loaded)
    report(launches, launches, "measured")
    threads = int(engine.params.get("threads") or len(cpus))
    return {
        **side(timed, batch, threads, seed),
        "variation": variation(timed),
        "pinned_cpus": cpus,
        "waited_share": median(timed.waited) if timed.waited else None,
    }


def variation(timed: Timed) -> float:
    """The coefficient of variation of the launches' medians."""
    medians = np.median(timed.medians_ms, axis=1)
    return float(np.std(medians, ddof=1) / np.mean(medians)) if len(medians) > 1 else 0.0


def _plan(run_ns: float, seconds: float) -> tuple[int, int]:
    """Runs of a block, and blocks of a launch; at least two runs a launch."""
    runs = runs_of_block(run_ns)
    return runs, max(int(seconds / max(runs * run_ns / 1e9, BLOCK_SECONDS)), 2)
