"""Times any number of engines in turns: as `workers.measure.latency` does two, each in a process of its own and stopped between.

A round lets all run once in order and once in reverse, so that a linear drift of the machine cancels between any two (ABBA
of many). Every second launch begins with the last one.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from workers.measure.launched import LAUNCH, EngineUnderTest, Launched
from workers.measure.processors import choose_cpus
from workers.measure.timed import RESUME_SECONDS, SLOW_WARM_UP_SECONDS, WARM_UP_SECONDS, Timed

BLOCK_SECONDS = 0.1


@dataclass(frozen=True)
class Contender:
    """An engine, what it is called, the passes that its model went through, and how its process is started."""

    name: str
    engine: EngineUnderTest
    passes: tuple[str, ...] = ()
    sqnr_db: float | None = None  # of its outputs against the first contender's; None: they are the same
    command: Sequence[str] = LAUNCH


@dataclass(frozen=True)
class Plan:
    """How many runs a block of each contender has, and how many rounds a launch."""

    runs: list[int]
    rounds: int


def take_turns(
    contenders: Sequence[Contender], feeds: Path, scratch: Path, *, launches: int, seconds: float
) -> list[Timed]:
    """What was seen of each contender, in their order, in about `seconds` of runs besides what starting takes.

    Raises:
        BurnishError: an engine's own error, or the death of its process.
    """
    cpus = choose_cpus(contenders[0].engine.params)
    seen = [Timed() for _ in contenders]
    plan: Plan | None = None
    for number in range(launches):
        order = list(range(len(contenders)))[:: -1 if number % 2 else 1]
        with ExitStack() as stack:
            processes = {
                index: stack.enter_context(Launched(one.engine, feeds, cpus, scratch, one.command))
                for index, one in enumerate(contenders)
            }
            for process in processes.values():
                process.wait_ready()
            run_ns = [_load(processes[index]) for index in range(len(contenders))]
            plan = plan or plan_blocks(run_ns, launches, seconds)
            for timed in seen:
                timed.blocks.append([])
            for index in (order + order[::-1]) * plan.rounds:
                block = processes[index].tell("block", runs=plan.runs[index], warm_up_seconds=RESUME_SECONDS)
                seen[index].blocks[-1].append(block["ns"])
                if block["waited_ns"] is not None:
                    seen[index].waited.append(block["waited_ns"] / sum(block["ns"]))
    return seen


def plan_blocks(run_ns: Sequence[float], launches: int, seconds: float) -> Plan:
    """Blocks of about `BLOCK_SECONDS` and as many rounds as `seconds` allow; at least one run a block, and one round."""
    runs = [max(round(BLOCK_SECONDS * 1e9 / one), 1) for one in run_ns]
    round_seconds = sum(
        2 * (count * one / 1e9 + max(RESUME_SECONDS, one / 1e9))
        for count, one in zip(runs, run_ns, strict=True)
    )
    return Plan(runs, max(int(seconds / (launches * round_seconds)), 1))


def _load(process: Launched) -> float:
    """Load and warm up; nanoseconds a run."""
    process.tell("load")
    warm = process.tell("warm_up", seconds=WARM_UP_SECONDS, at_most_seconds=SLOW_WARM_UP_SECONDS)
    return float(warm["run_ns"])
