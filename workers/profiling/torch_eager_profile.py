"""Eager PyTorch, profiled: a row for each layer and each call between layers, and one for what lies between calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import ClassVar

from torch import fx

from app.catalog.spec import Params
from workers.profiling.flamegraph import flame_graph
from workers.profiling.recorded import Plan, Recorded, Row
from workers.profiling.torch_calls import (
    Ranges,
    Shapes,
    Stopwatch,
    Watch,
    names_of,
    overhead_ns,
    watched,
)
from workers.profiling.torch_record import record, record_details
from workers.profiling.torch_rows import (
    Calls,
    Shape,
    Site,
    kernels_of,
    mean,
    rest,
    rows_of,
    spans_of,
    stacks_of,
)
from workers.profiling.torch_spans import MEMORY_NOTE, allocations_of, memory_of, runs_of
from workers.profiling.torch_traces import FLAMEGRAPH, traces_of
from workers.profiling.turns import take_turns, typical
from workers.runtimes.base import Engine, Feeds, Runtime
from workers.runtimes.torch_eager import LoadedEager
from workers.torch.exported import OpenedProgram
from workers.torch.program import Program, Run, moved, runner

PYTHON, IDLE, COPIES = "Python between calls", "GPU waits", "inputs and outputs"
STOPWATCH_NOTE = (
    "times are of runs with a stopwatch around each call, without the {0:.3g} ms that this costs; operators and memory are of "
    "others, under torch.profiler, which are slower"
)
KERNELS_NOTE = f"times are those of the GPU's kernels; `{IDLE}` is what a run takes besides, mostly until Python starts the next kernel"


@dataclass(frozen=True)
class _Subject:
    """A program whose calls are watched."""

    run: Run
    watch: Watch
    sites: Mapping[str, Site]
    shapes: Mapping[str, Shape]


@dataclass(frozen=True)
class _Timed:
    """What the calls of each label took in one run, what a run took besides, and each run."""

    spent: Mapping[str, Calls]
    besides: list[Row]
    run_ms: list[float]
    note: str


class TorchEagerProfiler:
    """See `recorded.Profiler`."""

    runtime: ClassVar[Runtime]
    device: ClassVar[str]

    def profile(
        self, engine: Engine, params: Params, feeds: Sequence[Feeds], plan: Plan, out: Path
    ) -> Recorded:
        """See `recorded.Profiler`."""
        loaded = self.runtime.load(engine, params)
        assert isinstance(loaded, LoadedEager)
        assert isinstance(loaded.opened, OpenedProgram)  # engines are built of nothing else
        subject = self._subject(loaded.opened.program, feeds)
        on_cpu = self.device == "cpu"
        timed = (_by_stopwatch if on_cpu else _by_kernels)(subject, feeds, plan)
        subject.watch.by = Ranges()
        recorded = record_details(subject.run, feeds, self.device)
        runs, allocations = runs_of(recorded), allocations_of(recorded, self.device)
        spans = spans_of(runs, subject.sites)
        rows = rows_of(subject.sites, timed.spent, subject.shapes, kernels_of(spans))
        operators = {label: site.operator for label, site in subject.sites.items()}
        stacks = stacks_of(subject.sites, timed.spent, spans, on_device=not on_cpu)
        return Recorded(
            rows=[*rows, *timed.besides],
            run_ms=timed.run_ms,
            traces=[
                *traces_of(recorded, allocations, out),
                flame_graph(
                    out / FLAMEGRAPH,
                    "one run",
                    {**stacks, **{(row.name,): row.mean_ms for row in timed.besides}},
                ),
            ],
            notes=[timed.note, MEMORY_NOTE],
            **memory_of(runs, allocations, lambda span: operators.get(span.name)),
        )

    def _subject(self, program: Program, feeds: Sequence[Feeds]) -> _Subject:
        names = names_of(program)
        if self.device != "cpu":
            program = moved(program, self.device)
        network = program.program.module()
        assert isinstance(network, fx.GraphModule)
        shapes = Shapes()
        watch = Watch(shapes)
        sites = watched(network, watch, names)
        run = runner(program, self.device, network)
        for one in feeds:
            run(one)
        return _Subject(run, watch, sites, shapes.found)


def _by_stopwatch(subject: _Subject, feeds: Sequence[Feeds], plan: Plan) -> _Timed:
    clock = Stopwatch()
    watching_ms = overhead_ns(clock) / 1e6
    subject.watch.by = clock

    def run(given: Feeds) -> None:
        clock.begin()
        subject.run(given)

    turns = take_turns(run, feeds, plan)
    runs = clock.runs[turns.warm_up :]
    numbers = typical(turns.run_ms)
    spent = mean(
        [{label: (calls, ns / 1e6) for label, (calls, ns) in runs[number].items()} for number in numbers]
    )
    watching = sum(calls for calls, _ in spent.values()) * watching_ms
    whole = fmean(turns.run_ms[number] for number in numbers) - watching
    return _Timed(
        spent,
        [rest(PYTHON, "python", whole, spent.values())],
        turns.run_ms,
        STOPWATCH_NOTE.format(watching),
    )


def _by_kernels(subject: _Subject, feeds: Sequence[Feeds], plan: Plan) -> _Timed:
    subject.watch.by = Ranges()
    runs = record(subject.run, feeds, plan, "cuda")
    run_ms = [run.total_us / 1000 for run in runs]
    counted = [runs[number] for number in typical(run_ms)]
    spent = mean(
        [
            {
                label: (len(ranges), sum(one.own_device_us(subject.sites) for one in ranges) / 1000)
                for label, ranges in spans_of([run], subject.sites).items()
                if ranges
            }
            for run in counted
        ]
    )
    every = fmean(run.device_us for run in counted) / 1000
    whole = fmean(run.total_us for run in counted) / 1000
    copies = rest(COPIES, "copy", every, spent.values())
    idle = rest(IDLE, "idle", whole - copies.mean_ms, spent.values())
    return _Timed(spent, [copies, idle], run_ms, KERNELS_NOTE)
