"""What launches of one engine showed: the times of its runs, what loading took, and the numbers that follow."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from app.measurements.compare import Interval
from workers.measure.launched import Launched
from workers.measure.statistics import median_interval
from workers.measure.throughput import Rates

BLOCK_SECONDS = 0.05
MOST_RUNS = 5000  # a block
WARM_UP_SECONDS = 0.1
SLOW_WARM_UP_SECONDS = 2.0  # a warm-up ends then, however few runs it had; never with less than one
P99_RUNS = 1000  # ten lie beyond the 99th percentile; of fewer it says little and is not given
RESUME_SECONDS = 0.005  # of untimed runs before each block; never less than one run


@dataclass
class Timed:
    """What was seen of one engine: in order, nanoseconds of every run [launches][blocks][runs], and the launches' own."""

    blocks: list[list[list[int]]] = field(default_factory=list)
    load_ms: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)  # less what was resident before the engine was loaded
    resident: list[dict[str, int]] = field(default_factory=list)
    gpu: list[dict[str, Any]] = field(
        default_factory=list
    )  # {memory_bytes, sm_mhz} a launch, of engines on one
    waited: list[float] = field(
        default_factory=list
    )  # the share of each block in which a thread waited for a CPU
    rates: Rates = field(default_factory=Rates)  # with several requests under way

    @property
    def samples_ms(self) -> np.ndarray:
        """Every timed run, in milliseconds."""
        flat = [run for launch in self.blocks for block in launch for run in block]
        return np.array(flat, dtype=np.float64) / 1e6

    @property
    def medians_ms(self) -> np.ndarray:
        """The median of each block, [launches, 2 * rounds], in milliseconds."""
        return np.array([[median(block) for block in launch] for launch in self.blocks]) / 1e6

    @property
    def runs_per_s(self) -> float:
        """With as many under way as the engine takes, or one after another: the median of the blocks' rates."""
        if self.rates.requests > 1:
            return self.rates.runs_per_s
        rates = [len(block) * 1e9 / sum(block) for launch in self.blocks for block in launch]
        return float(median(rates))


def runs_of_block(run_ns: float) -> int:
    """How many runs of so many nanoseconds make about `BLOCK_SECONDS`; at least one."""
    return min(max(round(BLOCK_SECONDS * 1e9 / run_ns), 1), MOST_RUNS)


def load(process: Launched) -> tuple[float, dict[str, Any]]:
    """Load and warm up: nanoseconds a run, and what loading took."""
    loaded = process.tell("load")
    warm = process.tell("warm_up", seconds=WARM_UP_SECONDS, at_most_seconds=SLOW_WARM_UP_SECONDS)
    return warm["run_ns"], {**loaded, "gpu": warm["gpu"]}


def block(timed: Timed, process: Launched, count: int) -> None:
    """Time `count` runs, after a few that are not timed; they are the last launch's next block."""
    seen = process.tell("block", runs=count, warm_up_seconds=RESUME_SECONDS)
    timed.blocks[-1].append(seen["ns"])
    if seen["waited_ns"] is not None:
        timed.waited.append(seen["waited_ns"] / sum(seen["ns"]))


def note(timed: Timed, process: Launched, loaded: dict[str, Any]) -> None:
    """Note what a launch took besides time; `loaded` is what `load` told of it."""
    memory = process.tell("memory")
    before = loaded["resident_before_bytes"]
    timed.load_ms.append(loaded["load_ms"])
    timed.peak_bytes.append(max(memory["peak_bytes"] - before, 0))
    if loaded["gpu"]:
        timed.gpu.append(loaded["gpu"])
    timed.resident.append(
        {
            "before": before,
            "loaded": loaded["resident_loaded_bytes"],
            "end": memory["resident_bytes"],
            "peak": memory["peak_bytes"],
        }
    )


def side(timed: Timed, batch: int, threads: int, seed: int) -> dict[str, Any]:
    """One engine in the answer of `latency.compare_latency`."""
    samples, medians = timed.samples_ms, timed.medians_ms
    return {
        "latency": {
            "p50_ms": float(np.median(samples)),
            "p90_ms": float(np.percentile(samples, 90)),
            "p99_ms": float(np.percentile(samples, 99)) if len(samples) >= P99_RUNS else None,
            "mean_ms": float(np.mean(samples)),
            "samples": len(samples),
            "launches": len(timed.blocks),
            "batch": batch,
            "threads": threads,
        },
        "throughput_per_s": batch * timed.runs_per_s,
        "concurrency": timed.rates.requests,
        "throughput_blocks": timed.rates.described(batch, seed),
        "peak_memory_bytes": int(median(timed.peak_bytes)),
        "peak_gpu_memory_bytes": int(median(one["memory_bytes"] for one in timed.gpu)) if timed.gpu else None,
        "load_ms": median(timed.load_ms),
        "p50_interval_ms": bounds(median_interval(medians, seed)),
        "block_medians_ms": medians.tolist(),
        "runs_ns": timed.blocks,
        "spread": {
            "load_ms": timed.load_ms,
            "peak_bytes": timed.peak_bytes,
            "resident_bytes": timed.resident,
            "gpu": timed.gpu,
        },
    }


def bounds(interval: Interval) -> dict[str, float]:
    """An interval as plain data."""
    return {"value": interval.value, "low": interval.low, "high": interval.high}
