"""MLPerf's scenarios, each as one point is measured: in processes started anew, `streams` of them side by side.

Source: Reddi et al., MLPerf Inference Benchmark, arXiv:1911.02549, section III-C.

- single-stream: the next query comes when the last is answered; a query is one run.
- multi-stream: a query is as many samples as there are streams, which go into one run where the engine's batch is free, else into
  as few as hold them, one after another.
- offline: all samples are there; only the rate counts.
- server: see `server.py`.

`streams` processes with an engine each work at the same time, except in multi-stream, where they are a query's samples.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from app.benchmarks.schemas import Latency, Rate
from workers.benchmarking.server import Served
from workers.measure.launched import EngineUnderTest, Launched
from workers.measure.processors import choose_cpus
from workers.measure.single import variation
from workers.measure.statistics import median_interval
from workers.measure.timed import BLOCK_SECONDS, Timed, block, load, note, runs_of_block

BEYOND = 10  # queries that lie beyond a percentile that is given
ROUNDS = 4  # throughput blocks a launch
GIVE_UP = 20.0  # times the bound of scenario `server`, by which an answer is late before a trial ends

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Setting:
    """What a point is measured on: `feeds` is a file of runs that hold `batch` samples each; a query of `samples` takes so many `runs`."""

    engine: EngineUnderTest
    feeds: Path
    batch: int
    streams: int
    scratch: Path
    seconds: float
    launches: int
    seed: int
    report: Report
    samples: int
    runs: int = 1


@dataclass
class Observed:
    """What the launches of one point showed."""

    timed: Timed = field(default_factory=Timed)
    rates: list[float] = field(default_factory=list)  # samples a second, a launch each
    samples: int = 0
    variation: float = 0.0

    def latency(self) -> Latency | None:
        """Of queries; None where none was timed by itself."""
        return latency_of(self.timed.samples_ms) if self.timed.blocks else None

    def rate(self, seed: int) -> Rate:
        """Samples a second."""
        found = median_interval(np.array(self.rates)[:, np.newaxis], seed)
        return Rate(value=found.value, low=found.low, high=found.high)


def queries(setting: Setting) -> Observed:
    """Scenarios single-stream and multi-stream: one query after another. With several streams of the former, all at once."""
    seen = Observed()
    runs = blocks = 0
    for number in range(setting.launches):
        setting.report(number, setting.launches, f"launch {number + 1} of {setting.launches}")
        with _started(setting) as processes:
            ns, loaded = _all_loaded(processes)
            if number == 0:
                runs = setting.runs * runs_of_block(setting.runs * ns)
                blocks = max(int(setting.seconds / setting.launches / max(runs * ns / 1e9, BLOCK_SECONDS)), 2)
            seen.timed.blocks.append([])
            for _ in range(blocks):
                block(seen.timed, processes[0], runs)
                seen.timed.blocks[-1][-1] = _together(seen.timed.blocks[-1][-1], setting.runs)
            note(seen.timed, processes[0], loaded)
        flat = [run for one in seen.timed.blocks[-1] for run in one]
        seen.samples += setting.samples * len(flat)
        seen.rates.append(setting.samples * len(flat) * 1e9 / sum(flat))
    seen.variation = variation(seen.timed)
    return seen


def offline(setting: Setting) -> Observed:
    """Scenario offline: every process runs as fast as it can; the rate is that of all together."""
    seen = Observed()
    for number in range(setting.launches):
        setting.report(number, setting.launches, f"launch {number + 1} of {setting.launches}")
        with _started(setting) as processes:
            _, loaded = _all_loaded(processes)
            rates = []
            for _ in range(ROUNDS):
                for process in processes:
                    process.begin("throughput", seconds=setting.seconds / setting.launches / ROUNDS)
                told = [process.answer() for process in processes]
                seen.samples += sum(setting.batch * one["runs"] for one in told)
                rates.append(sum(setting.batch * one["runs"] * 1e9 / one["ns"] for one in told))
            note(seen.timed, processes[0], loaded)
        seen.rates.append(median(rates))
    spread = np.array(seen.rates)
    seen.variation = float(np.std(spread, ddof=1) / np.mean(spread)) if len(spread) > 1 else 0.0
    return seen


def _together(runs_ns: Sequence[int], count: int) -> list[int]:
    """What so many runs, one after another, take together."""
    return [sum(runs_ns[start : start + count]) for start in range(0, len(runs_ns), count)]


@contextmanager
def serving(
    setting: Setting, bound_ms: float
) -> Iterator[tuple[Callable[[np.ndarray], Served], float, Timed]]:
    """Scenario server: what answers queries that arrive at given seconds, its capacity (samples a second), and what loading took.

    With several streams each query goes to one of the processes at random.
    """
    timed = Timed()
    with _started(setting) as processes:
        ns, loaded = _all_loaded(processes)
        note(timed, processes[0], loaded)
        patience = int(GIVE_UP * bound_ms * 1e6)
        chance = np.random.default_rng(setting.seed)

        def serve(arrivals: np.ndarray) -> Served:
            whose = chance.integers(len(processes), size=len(arrivals))
            shares = [arrivals[whose == number] for number in range(len(processes))]
            for process, share in zip(processes, shares, strict=True):
                given = (share * 1e9).astype(np.int64).tolist()
                process.begin("serve", arrivals_ns=given, batch=setting.batch, patience_ns=patience)
            told = [process.answer() for process in processes]
            return Served(
                [one for each in told for one in each["ns"]],
                sum(one["runs"] for one in told),
                int(sum(one["busy_ns"] for one in told) / len(told)),
                max(one["all_ns"] for one in told) / 1e9,
                any(one["gave_up"] for one in told),
            )

        yield serve, len(processes) * setting.batch * 1e9 / ns, timed


def latency_of(samples_ms: np.ndarray) -> Latency:
    """Percentiles as far as the samples carry them."""

    def percentile(percent: float) -> float | None:
        carried = len(samples_ms) * (1 - percent / 100) >= BEYOND - 1e-6
        return float(np.percentile(samples_ms, percent)) if carried else None

    return Latency(
        p50_ms=float(np.median(samples_ms)),
        p90_ms=percentile(90),
        p99_ms=percentile(99),
        p999_ms=percentile(99.9),
        mean_ms=float(np.mean(samples_ms)),
        queries=len(samples_ms),
    )


@contextmanager
def _started(setting: Setting) -> Iterator[Sequence[Launched]]:
    cpus = choose_cpus(setting.engine.params)
    setting.scratch.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        processes = [
            stack.enter_context(Launched(setting.engine, setting.feeds, cpus, setting.scratch))
            for _ in range(setting.streams)
        ]
        for process in processes:
            process.wait_ready()
        yield processes


def _all_loaded(processes: Sequence[Launched]) -> tuple[float, dict[str, Any]]:
    """Load and warm up each: nanoseconds a run, and what the first took."""
    found = [load(process) for process in processes]
    return found[0]
