"""The presets beside what people run today: eager PyTorch, `torch.compile` and ONNX Runtime, in turns in one run.

python -m benchmarks.runtimes             the tables on standard output; 1 where a goal is missed
python -m benchmarks.runtimes --write     the same, and into README.md and docs/figures.md
python -m benchmarks.runtimes --quick     two short launches: whether it works, not how fast anything is
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.measurements.compare import Interval, speed_verdict
from benchmarks.contenders import COMPILED, PLAIN, TARGETS, Prepared
from benchmarks.table import table
from benchmarks.turns import Contender, take_turns
from benchmarks.untrained import NETWORKS, Untrained
from benchmarks.written import ROOT, write
from workers.distributions import versions_of
from workers.measure.environment import machine
from workers.measure.latency import LAUNCHES
from workers.measure.statistics import median_interval, ratio_interval
from workers.measure.timed import Timed

THREADS = (1, 2)
SECONDS = 40.0  # of runs for a network and a number of threads
QUICK_LAUNCHES, QUICK_SECONDS = 2, 4.0
SEED = 0
MARK = "runtimes"  # of the places where the tables stand
SHORT, LONG = ROOT / "README.md", ROOT / "docs/figures.md"
PACKAGES = ("torch", "onnxruntime", "openvino", "nncf", "torchao", "transformers", "pytorchcv")


@dataclass(frozen=True)
class Measured:
    """One contender's figures: milliseconds, and how many times as fast as the first contender it is."""

    contender: Contender
    p50_ms: Interval
    speedup: Interval
    verdict: str
    waited: float | None  # the share of the time in which it was kept from running


@dataclass(frozen=True)
class Session:
    """A network with a number of threads: everything that was timed in turns, the first thing and its control included."""

    network: Untrained
    threads: int
    measured: list[Measured]

    def of(self, name: str) -> Measured:
        """The figures of one contender."""
        return next(one for one in self.measured if one.contender.name == name)

    @property
    def best(self) -> Measured:
        """The fastest of the presets."""
        presets = [one for one in self.measured if one.contender.name in TARGETS]
        return max(presets, key=lambda one: one.speedup.value)

    @property
    def reached(self) -> bool:
        """Whether the fastest preset reaches the goal, by the lower bound of its interval."""
        return self.best.speedup.low >= self.network.goal


def main(arguments: Sequence[str] = ()) -> int:
    """Time everything and print it; 1 where a goal is missed or the machine was too busy to tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--quick", action="store_true", help="two short launches")
    kind.add_argument(
        "--write", action="store_true", help="write the tables into README.md and docs/figures.md"
    )
    given = parser.parse_args(arguments)
    launches, seconds = (QUICK_LAUNCHES, QUICK_SECONDS) if given.quick else (LAUNCHES, SECONDS)
    sessions = list(timed(NETWORKS, THREADS, launches, seconds))
    short, long = short_table(sessions), long_table(sessions)
    print(f"{short}\n\n{long}\n\n{conditions()}", flush=True)
    if given.write:
        write(SHORT, MARK, short)
        write(LONG, MARK, f"{long}\n\n{conditions()}")
    missed = [one for one in sessions if not one.reached]
    for one in missed:
        print(f"{one.network.name}, {one.threads} threads: {sentence(one)}", file=sys.stderr)
    return 1 if missed and not given.quick else 0


def timed(
    networks: Sequence[Untrained], threads: Sequence[int], launches: int, seconds: float
) -> Iterator[Session]:
    """Each network with each number of threads; what is slow to make is made once a network."""
    for network in networks:
        with tempfile.TemporaryDirectory(prefix="burnish-bench-") as temporary:
            prepared = Prepared(network, Path(temporary))
            for count in threads:
                print(f"{network.name}: building for {count} threads", file=sys.stderr, flush=True)
                contenders = list(prepared.contenders(count))
                scratch = Path(temporary) / f"threads-{count}"
                scratch.mkdir()
                print(f"{network.name}: {launches} launches", file=sys.stderr, flush=True)
                seen = take_turns(contenders, prepared.feeds, scratch, launches=launches, seconds=seconds)
                yield Session(network, count, figures(contenders, seen))


def figures(contenders: Sequence[Contender], seen: Sequence[Timed]) -> list[Measured]:
    """Medians, ratios to the first contender, and verdicts by the control, which is the last."""
    first = seen[0].medians_ms
    ratios = [ratio_interval(first, one.medians_ms, SEED) for one in seen]
    return [
        Measured(
            contender,
            median_interval(one.medians_ms, SEED),
            ratio,
            speed_verdict(ratio, ratios[-1]).replace("_", " "),
            float(np.median(one.waited)) if one.waited else None,
        )
        for contender, one, ratio in zip(contenders, seen, ratios, strict=True)
    ]


def short_table(sessions: Sequence[Session]) -> str:
    """A row a session: eager's milliseconds, and how many times as fast the others are."""
    others = (COMPILED, PLAIN, *TARGETS)
    return table(
        ("network", "threads", "eager, ms", *(f"`{name}`" if name in TARGETS else name for name in others)),
        [
            (
                one.network.name,
                str(one.threads),
                f"{one.measured[0].p50_ms.value:.3g}",
                *(_ratio(one.of(name).speedup, bold=name == one.best.contender.name) for name in others),
            )
            for one in sessions
        ],
    )


def long_table(sessions: Sequence[Session]) -> str:
    """A row a contender, with a heading and a sentence for each session."""
    parts = []
    for one in sessions:
        rows = [
            (
                f"`{found.contender.name}`" if found.contender.name in TARGETS else found.contender.name,
                ", ".join(f"`{name}`" for name in found.contender.passes) or "–",
                f"{found.p50_ms.value:.3g} [{found.p50_ms.low:.3g}, {found.p50_ms.high:.3g}]",
                *(("1", "–") if found is one.measured[0] else (_ratio(found.speedup), found.verdict)),
                "–" if found.contender.sqnr_db is None else f"{found.contender.sqnr_db:.0f}",
            )
            for found in one.measured
        ]
        columns = ("engine", "passes", "p50, ms [95%]", "times as fast as eager [95%]", "verdict", "SQNR, dB")
        plural = "thread" if one.threads == 1 else "threads"
        parts.append(
            f"**{one.network.name}, {one.threads} {plural}.** {sentence(one)}\n\n{table(columns, rows)}"
        )
    return "\n\n".join(parts)


def sentence(session: Session) -> str:
    """The goal, and what the fastest preset reached."""
    best = session.best
    return (
        f"Goal {session.network.goal:g}×, {'reached' if session.reached else 'missed'}: "
        f"`{best.contender.name}` {_ratio(best.speedup)}."
    )


def conditions() -> str:
    """The machine and the versions, for below a table."""
    found = machine()
    fast = [
        name
        for name in ("avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
        if name in found["cpu_features"]
    ]
    versions = {"Python": found["versions"]["python"], **versions_of(PACKAGES)}
    return (
        f"{found['cpu']} ({', '.join(fast) or 'no 8-bit instructions'}), {found['usable_processors']} processors, "
        f"{found['system']}; {', '.join(f'{name} {number}' for name, number in versions.items())}."
    )


def _ratio(ratio: Interval, *, bold: bool = False) -> str:
    value = f"**{ratio.value:.2f}**" if bold else f"{ratio.value:.2f}"
    return f"{value} [{ratio.low:.2f}, {ratio.high:.2f}]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
