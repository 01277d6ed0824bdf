"""Runs of an engine under `torch.profiler`."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch.profiler import profile, record_function

from workers.profiling.recorded import Plan
from workers.profiling.torch_spans import RUN, SKIPPED, Span, recorder, runs_of
from workers.profiling.turns import take_turns
from workers.runtimes.base import Feeds

MOST_SPANS = 60_000  # of a recording: some 2 kB each
DETAILED = 3  # runs with shapes and memory, which viewers get
TRIED_SHARE = 0.2  # of a plan's seconds, to learn how long a run takes

Run = Callable[[Feeds], Any]


def record(run: Run, feeds: Sequence[Feeds], plan: Plan, device: str) -> list[Span]:
    """Warm up, then run the feeds in turns under a profiler that looks at names and times alone; the runs."""
    tried = take_turns(run, feeds, replace(plan, seconds=TRIED_SHARE * plan.seconds, least_runs=3))
    one = runs_of(_recorded(run, feeds, device, 1, details=False))
    fitting = plan.seconds * 1000 / statistics.median(tried.run_ms)
    wanted = min(plan.most_runs, max(plan.least_runs, int(fitting)))
    most = MOST_SPANS // max(1, sum(1 for _ in one[0].all()))
    return runs_of(_recorded(run, feeds, device, max(1, min(wanted, most)), details=False))


def record_details(run: Run, feeds: Sequence[Feeds], device: str) -> profile:
    """A few runs under a profiler that looks at shapes and memory too, which takes so long that its times are for looking alone."""
    return _recorded(run, feeds, device, DETAILED, details=True)


def _recorded(run: Run, feeds: Sequence[Feeds], device: str, runs: int, *, details: bool) -> profile:
    found = recorder(device, runs, details=details)
    with found:
        for number in range(SKIPPED + runs):
            with record_function(RUN):
                run(feeds[number % len(feeds)])
            found.step()
    return found
