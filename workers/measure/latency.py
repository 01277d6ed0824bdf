"""Times two engines against each other, so that the difference is theirs and not the machine's.

Each of several launches starts three processes anew: baseline, optimized, and the baseline once more as the A/A control.
The baseline is timed against each of the other two in rounds of ABBA blocks (BAAB in every second launch, and the
partners' order changes too), on the same pinned CPUs, while everybody else is stopped. Only two engines are in memory
at a time. Where there is a reference, the source framework, it is timed in the same launch, against a fresh process of the
optimized engine. A block is a few untimed runs, then runs for about `BLOCK_SECONDS`; the number of its runs is fixed at the
first launch. `statistics.ratio_interval` makes intervals of the blocks, `app/measurements/compare.py` the verdict.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from app.measurements.compare import Interval, speed_verdict
from workers.measure.launched import EngineUnderTest as EngineUnderTest
from workers.measure.launched import Launched
from workers.measure.processors import choose_cpus
from workers.measure.statistics import ratio_interval
from workers.measure.throughput import seconds_for_requests, trade_requests
from workers.measure.timed import BLOCK_SECONDS, Timed, block, bounds, load, note, runs_of_block, side

LAUNCHES = 5
REFERENCE_SHARE = 0.25  # of the seconds, where a reference is timed too

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class BlockPlan:
    """How many runs a block of each engine has, and how many ABBA rounds a launch."""

    baseline_runs: int
    optimized_runs: int
    rounds: int

    def runs(self, partner: str) -> tuple[int, int]:
        """Runs of a block of the baseline, and of its partner."""
        return self.baseline_runs, self.optimized_runs if partner == "optimized" else self.baseline_runs


@dataclass
class Pair:
    """The baseline against one partner."""

    baseline: Timed = field(default_factory=Timed)
    partner: Timed = field(default_factory=Timed)

    def ratio(self, seed: int) -> Interval:
        """The baseline's latency over the partner's: above 1 the partner is faster."""
        return ratio_interval(self.baseline.medians_ms, self.partner.medians_ms, seed)


def compare_latency(
    baseline: EngineUnderTest,
    optimized: EngineUnderTest,
    feeds: Path,
    scratch: Path,
    *,
    batch: int = 1,
    launches: int = LAUNCHES,
    seconds: float,
    seed: int = 0,
    report: Report = lambda done, total, message: None,
    reference: EngineUnderTest | None = None,
) -> dict[str, Any]:
    """Measure both, alone on the device, on the feeds in a file (`feeds_file.py`) that hold `batch` samples a run.

    The answer: `baseline` and `optimized` with {latency {p50_ms, p90_ms, p99_ms, mean_ms, samples, launches, batch,
    threads}, throughput_per_s, concurrency, throughput_blocks, peak_memory_bytes, peak_gpu_memory_bytes, load_ms, p50_interval_ms,
    block_medians_ms, runs_ns (every timed run, [launches][blocks][runs]), spread}; `speedup` {value, low, high, verdict};
    `control` {value, low, high, block_medians_ms}; `pinned_cpus`; `plan`; `waited_share`. With a `reference` also this side, and
    `speedup_over_reference` like `speedup`.

    - p99_ms is None where fewer than `P99_RUNS` runs were timed.
    - throughput_per_s counts samples: the median of what the blocks reached. Runs come one after another, as they do for
      latency; of an engine that takes several requests side by side, `concurrency` of them are under way, in blocks of
      their own: `throughput_blocks` (None where there are none).
    - peak_memory_bytes is what loading and running added to the process at most, median of the launches.
    - peak_gpu_memory_bytes is the same on the GPU; None where the engine runs on none.
    - load_ms is with files cached and libraries loaded, median of the launches.
    - waited_share is the median, over blocks, of the share of time that a thread of the engine was ready to run and had
      no processor: others were at work, and long runs look longer than they are. None where the system does not tell.
    - At least two runs a launch and engine are timed, however slow they are.

    Raises:
        BurnishError: an engine's own error, or the death of its process.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    cpus = choose_cpus(baseline.params)
    pairs = {"optimized": Pair(), "control": Pair()}
    engines = {"optimized": optimized, "control": baseline}
    plan: BlockPlan | None = None
    beside = Beside(reference, optimized, launches, REFERENCE_SHARE * seconds) if reference else None
    own_seconds = seconds - (beside.seconds if beside else 0)
    steps = 2 + bool(beside)
    for number in range(launches):
        swapped = number % 2 == 1
        with ExitStack() as stack:
            names = ["control", "optimized"] if swapped else ["optimized", "control"]
            first, *others = [
                stack.enter_context(Launched(engine, feeds, cpus, scratch))
                for engine in (baseline, *(engines[name] for name in names))
            ]
            for process in (first, *others):
                process.wait_ready()
            baseline_ns, loaded = load(first)
            for turn, (name, second) in enumerate(zip(names, others, strict=True)):
                report(steps * number + turn, steps * launches, f"launch {number + 1} of {launches}: {name}")
                with second:
                    partner_ns, partner_loaded = load(second)
                    several = seconds_for_requests(
                        own_seconds, loaded["requests"], partner_loaded["requests"]
                    )
                    plan = plan or plan_blocks(baseline_ns, partner_ns, launches, own_seconds - several)
                    pair = pairs[name]
                    _trade(pair, first, second, plan.runs(name), plan.rounds, swapped=swapped)
                    if name == "optimized":
                        pair.baseline.rates.requests = loaded["requests"]
                        pair.partner.rates.requests = partner_loaded["requests"]
                        sides = ((pair.baseline.rates, first), (pair.partner.rates, second))
                        trade_requests(sides, several / launches, swapped=swapped)
                    note(pairs[name].partner, second, partner_loaded)
                    note(pairs[name].baseline, first, loaded)
        if beside:
            report(steps * number + 2, steps * launches, f"launch {number + 1} of {launches}: reference")
            beside.launch(feeds, cpus, scratch, swapped=swapped)
    report(steps * launches, steps * launches, "measured")
    assert plan is not None
    speedup, control = pairs["optimized"].ratio(seed), pairs["control"].ratio(seed)
    threads = int(baseline.params.get("threads") or len(cpus))
    waited = [
        share for pair in pairs.values() for side in (pair.baseline, pair.partner) for share in side.waited
    ]
    result = {
        "baseline": side(pairs["optimized"].baseline, batch, threads, seed),
        "optimized": side(pairs["optimized"].partner, batch, threads, seed),
        "speedup": {**bounds(speedup), "verdict": speed_verdict(speedup, control)},
        "control": {
            **bounds(control),
            "block_medians_ms": [
                side.medians_ms.tolist() for side in (pairs["control"].baseline, pairs["control"].partner)
            ],
        },
        "pinned_cpus": cpus,
        "waited_share": median(waited) if waited else None,
        "plan": {
            "baseline_runs": plan.baseline_runs,
            "optimized_runs": plan.optimized_runs,
            "rounds": plan.rounds,
        },
    }
    return {**result, **beside.result(batch, threads, seed, control)} if beside else result


class Beside:
    """The reference against the optimized engine, both in processes of their own, launch by launch."""

    def __init__(self, reference: EngineUnderTest, optimized: EngineUnderTest, launches: int, seconds: float):
        self._engines = reference, optimized
        self._launches = launches
        self.seconds = seconds
        self._plan: tuple[tuple[int, int], int] | None = None
        self.pair = Pair()

    def launch(self, feeds: Path, cpus: Sequence[int], scratch: Path, *, swapped: bool) -> None:
        """Time one launch of both. Raises as `compare_latency`."""
        with ExitStack() as stack:
            first, second = (
                stack.enter_context(Launched(engine, feeds, cpus, scratch)) for engine in self._engines
            )
            for process in (first, second):
                process.wait_ready()
            (first_ns, loaded), (second_ns, other) = load(first), load(second)
            runs, rounds = self._plan = self._plan or self._blocks(first_ns, second_ns)
            _trade(self.pair, first, second, runs, rounds, swapped=swapped)
            note(self.pair.baseline, first, loaded)
            note(self.pair.partner, second, other)

    def result(self, batch: int, threads: int, seed: int, control: Interval) -> dict[str, Any]:
        """The part of `compare_latency`'s answer that is about the reference."""
        speedup = self.pair.ratio(seed)
        return {
            "reference": side(self.pair.baseline, batch, threads, seed),
            "speedup_over_reference": {**bounds(speedup), "verdict": speed_verdict(speedup, control)},
        }

    def _blocks(self, first_ns: float, second_ns: float) -> tuple[tuple[int, int], int]:
        runs = runs_of_block(first_ns), runs_of_block(second_ns)
        round_seconds = 2 * (runs[0] * first_ns + runs[1] * second_ns) / 1e9
        return runs, max(int(self.seconds / (self._launches * max(round_seconds, 4 * BLOCK_SECONDS))), 1)


def plan_blocks(baseline_ns: float, optimized_ns: float, launches: int, seconds: float) -> BlockPlan:
    """Blocks of about `BLOCK_SECONDS`, as many rounds as `seconds` allow, at least one run a block and one round."""
    runs = runs_of_block(baseline_ns), runs_of_block(optimized_ns)
    # a round of both pairs: six blocks of the baseline's engine, two of the optimized one
    round_seconds = (6 * runs[0] * baseline_ns + 2 * runs[1] * optimized_ns) / 1e9
    rounds = max(int(seconds / (launches * max(round_seconds, 8 * BLOCK_SECONDS))), 1)
    return BlockPlan(runs[0], runs[1], rounds)


def _trade(
    pair: Pair,
    first: Launched,
    second: Launched,
    runs: tuple[int, int],
    rounds: int,
    *,
    swapped: bool,
) -> None:
    """The rounds of one launch: ABBA, or BAAB where swapped."""
    sides = {"A": (pair.baseline, first, runs[0]), "B": (pair.partner, second, runs[1])}
    for timed, _, _ in sides.values():
        timed.blocks.append([])
    for letter in ("BAAB" if swapped else "ABBA") * rounds:
        block(*sides[letter])
