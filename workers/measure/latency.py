"""Two engines and a control, launched anew several times and timed in turns, one process running at a time."""

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from app.errors import Crashed
from workers.measure.launch import LaunchSpec

LAUNCHES = 5
BLOCK_SECONDS = 0.06
WARM_UP_SECONDS = 0.02
MOST_RUNS = 2000  # in a block
ROUNDS = 4  # a round is one block of each side, there and back
BUDGET_SECONDS = (
    120.0  # of timed and warming runs; slow models get fewer rounds, never fewer than one a launch
)
PILOT_RUNS = 3
PERCENTILE_TAIL = 5  # samples that must lie beyond a percentile before it is given

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class EngineUnderTest:
    """An engine as a launch gets it: its runtime's name is data here."""

    runtime: str
    root: Path
    entry: str
    params: dict[str, Any]


@dataclass
class Side:
    """What was timed of one side: per launch its blocks, per block its inferences in nanoseconds."""

    launches: list[list[list[int]]] = field(default_factory=list)
    load_ms: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)

    @property
    def block_medians(self) -> list[list[float]]:
        """Per launch the median of each block, in nanoseconds."""
        return [[statistics.median(block) for block in launch] for launch in self.launches]

    @property
    def samples_ms(self) -> list[float]:
        """Every inference, sorted, in milliseconds."""
        return sorted(ns / 1e6 for launch in self.launches for block in launch for ns in block)

    def figures(self, batch: int, threads: int) -> dict[str, Any]:
        """`latency`, `throughput_per_s`, `peak_memory_bytes`, `load_ms` as the job's result shows them.

        Memory is what loading and running added to the process.
        """
        samples = self.samples_ms
        mean = statistics.fmean(samples)
        return {
            "latency": {
                "p50_ms": statistics.median(samples),
                "p90_ms": percentile(samples, 0.90),
                "p99_ms": percentile(samples, 0.99),
                "mean_ms": mean,
                "samples": len(samples),
                "launches": len(self.launches),
                "batch": batch,
                "threads": threads,
            },
            "throughput_per_s": batch * 1000 / mean,
            "peak_memory_bytes": int(statistics.median(self.memory_bytes)),
            "load_ms": statistics.median(self.load_ms),
        }


@dataclass(frozen=True)
class Timings:
    """One session: `control` is the baseline once more, in processes of its own."""

    baseline: Side
    optimized: Side
    control: Side
    cpus: list[int]


def time_in_turns(
    baseline: EngineUnderTest,
    optimized: EngineUnderTest,
    feeds: Path,
    scratch: Path,
    report: Report,
    launches: int = LAUNCHES,
) -> Timings:
    """Time both engines and an A/A control on one set of feeds (an `.npz`, one array an input).

    Each launch starts three fresh processes; blocks run in the order A B C C B A (then, in the next launch, from the
    other end), so that a drift of the machine weighs on all alike. A process that is not timed is stopped by signal.

    Raises:
        Crashed: a launch ended before it was told to.
    """
    engines = [baseline, optimized, baseline]
    sides = [Side(), Side(), Side()]
    cpus = cpus_for(baseline.params)
    scratch.mkdir(parents=True, exist_ok=True)
    for launch in range(launches):
        report(launch, launches, f"launch {launch + 1} of {launches}")
        with ExitStack() as stack:
            running = [
                stack.enter_context(launched(engine, feeds, cpus, scratch / f"launch-{launch}-{number}"))
                for number, engine in enumerate(engines)
            ]
            run_launch(running, sides, first=launch % 2 == 1, budget_seconds=BUDGET_SECONDS / launches)
    report(launches, launches, "")
    return Timings(sides[0], sides[1], sides[2], cpus)


def run_launch(running: "Sequence[Launch]", sides: list[Side], *, first: bool, budget_seconds: float) -> None:
    """All rounds of one launch; `first` starts them from the other end."""
    pilots = [statistics.median(process.block(PILOT_RUNS, PILOT_RUNS)) / 1e9 for process in running]
    counts = [min(MOST_RUNS, max(1, round(BLOCK_SECONDS / seconds))) for seconds in pilots]
    warm_ups = [min(MOST_RUNS, max(1, round(WARM_UP_SECONDS / seconds))) for seconds in pilots]
    round_seconds = 2 * sum(
        (count + warm_up) * seconds for count, warm_up, seconds in zip(counts, warm_ups, pilots, strict=True)
    )
    rounds = max(1, min(ROUNDS, int(budget_seconds / round_seconds)))
    order = [0, 1, 2] if not first else [2, 1, 0]
    blocks: list[list[list[int]]] = [[], [], []]
    for _ in range(rounds):
        for index in [*order, *reversed(order)]:
            blocks[index].append(running[index].block(warm_ups[index], counts[index]))
    for side, process, timed in zip(sides, running, blocks, strict=True):
        side.launches.append(timed)
        side.load_ms.append(process.load_ms)
        side.memory_bytes.append(process.memory_bytes)


class Launch:
    """One launched process; stopped whenever it is not being timed."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._in: IO[str] = process.stdin
        self._out: IO[str] = process.stdout
        self.load_ms = float(self._read()["load_ms"])
        self.memory_bytes = 0
        self._signal(signal.SIGSTOP)

    def block(self, warm_up: int, count: int) -> list[int]:
        """Time `count` inferences, in nanoseconds, after some that are not timed."""
        self._signal(signal.SIGCONT)
        self._write({"do": "block", "warm_up": warm_up, "count": count})
        answer = self._read()
        self._signal(signal.SIGSTOP)
        self.memory_bytes = answer["memory_bytes"]
        return list(answer["ns"])

    def end(self) -> None:
        """Kill the process and everything that it started; measurements are already here."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._in.close()
        self._out.close()

    def _read(self) -> dict[str, Any]:
        line = self._out.readline()
        if not line:
            raise Crashed(
                f"the process that was being timed ended with status {self._process.wait()}",
                stage="measuring",
                hint="the job's log has what it said last",
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _write(self, command: dict[str, Any]) -> None:
        try:
            self._in.write(json.dumps(command) + "\n")
            self._in.flush()
        except BrokenPipeError:
            self._read()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return


@contextmanager
def launched(engine: EngineUnderTest, feeds: Path, cpus: list[int], spec_file: Path) -> Iterator[Launch]:
    """A fresh process with the engine loaded, killed in the end."""
    spec = LaunchSpec(
        parent_pid=os.getpid(),
        runtime=engine.runtime,
        root=engine.root,
        entry=engine.entry,
        params=engine.params,
        feeds=feeds,
        cpus=cpus,
    )
    spec_file.write_text(spec.model_dump_json())
    process = subprocess.Popen(
        [sys.executable, "-m", "workers", "launch", str(spec_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    launch = None
    try:
        launch = Launch(process)
        yield launch
    finally:
        if launch is not None:
            launch.end()
        elif process.poll() is None:
            process.kill()
            process.wait()


def cpus_for(params: dict[str, Any]) -> list[int]:
    """The processors to pin to: as many of those allowed as the engine has threads, all where that is 0."""
    allowed = sorted(os.sched_getaffinity(0))
    threads = int(params.get("threads") or len(allowed))
    return allowed[:threads]


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """A percentile by nearest rank; None where too few samples lie beyond it."""
    beyond = len(ordered) * (1 - share)
    if beyond < PERCENTILE_TAIL:
        return None
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
