"""Runs under a profiler: a warm-up, then feeds in turns, which of the runs stand for all, and what each row takes of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.profiling.recorded import Plan
from workers.runtimes.base import Feeds

WARMING = 4  # one in so many runs, where the profiler cannot hold more, warms up


@dataclass(frozen=True)
class Turns:
    """`run_ms` of the runs that count, in their order; `warm_up` others came before them."""

    warm_up: int
    run_ms: list[float]


def take_turns(
    run: Callable[[Feeds], Any],
    feeds: Sequence[Feeds],
    plan: Plan,
    *,
    most: int = 1_000_000,
    warm: Callable[[], Any] = lambda: None,
    after: Callable[[], Any] = lambda: None,
) -> Turns:
    """Run every feed, and for `plan.warm_up_seconds`; then in turns, as the plan says.

    `most`: runs that the profiler can hold. `warm` is called once between the two, `after` behind each run that counts.
    """
    started = time.perf_counter()
    warm_up = 0
    while warm_up < max(1, most // WARMING) and (
        warm_up < len(feeds) or time.perf_counter() - started < plan.warm_up_seconds
    ):
        run(feeds[warm_up % len(feeds)])
        warm_up += 1
    warm()
    limit = max(1, min(plan.most_runs, most - warm_up))
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < limit and (
        len(times) < plan.least_runs or time.perf_counter() - started < plan.seconds
    ):
        before = time.perf_counter()
        run(feeds[len(times) % len(feeds)])
        times.append((time.perf_counter() - before) * 1000)
        after()
    return Turns(warm_up, times)


def typical(run_ms: Sequence[float]) -> list[int]:
    """The half of the runs that lies nearest to their median, by place.

    So the rows' sum can be held against the median run, and runs that were interrupted more than others colour no row.
    """
    middle = statistics.median(run_ms)
    order = sorted(range(len(run_ms)), key=lambda number: (abs(run_ms[number] - middle), number))
    return sorted(order[: max(1, (len(run_ms) + 1) // 2)])


def settled(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The time that each label takes of one run, of its times in several; together they are these runs' mean.

    On a busy machine every run is interrupted somewhere, and the label that ran just then has the whole of it. So of each label the
    faster half of its times counts, but for the fastest, and what runs took is shared out by these.
    """
    times: dict[str, list[float]] = {}
    for run in runs:
        for label, spent in run.items():
            times.setdefault(label, []).append(spent)
    usual = {label: _usual(found) * len(found) / len(runs) for label, found in times.items()}
    whole, shared = sum(sum(found) for found in times.values()) / len(runs), sum(usual.values())
    return {label: spent * whole / shared if shared else 0.0 for label, spent in usual.items()}


def _usual(times: Sequence[float]) -> float:
    return statistics.fmean(sorted(times)[len(times) // 8 : (len(times) + 1) // 2])
