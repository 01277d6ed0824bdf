"""The steps of a training, profiled: a few of them as they are, then some under `torch.profiler`, and the training is left."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import fx, nn
from torch.profiler import profile, record_function

from app.catalog.pass_params.training import TrainingParams
from app.catalog.spec import Params
from app.errors import IncompatibleRecipe
from app.profiles.schemas import Phase
from workers import passes
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.profiling.flamegraph import flame_graph
from workers.profiling.recorded import Plan, Recorded
from workers.profiling.torch_calls import Names, Ranges, Shapes, Unwatched, Watch, watched
from workers.profiling.torch_rows import Site
from workers.profiling.torch_spans import (
    MEMORY_NOTE,
    RUN,
    SKIPPED,
    Span,
    allocations_of,
    memory_of,
    recorder,
    runs_of,
)
from workers.profiling.torch_traces import FLAMEGRAPH, traces_of
from workers.profiling.training_rows import OTHER, PHASES, rows_of_steps
from workers.profiling.turns import typical
from workers.training.phases import PhaseName
from workers.training.task import Batch, Batches, Task

LEAST_WARM_UP = 12  # steps: the loader looks at the first ones, and decides then how it reads
RECORDED, DETAILED = 5, 2  # steps under torch.profiler: for times, and with shapes and memory for viewers
NOTE = "phases are of steps that ran as they are; what layers take of them is from other steps, under torch.profiler, brought to the same sum"


class Enough(Exception):
    """What was to be seen of the training was seen."""


@dataclass(frozen=True)
class ProfiledTraining:
    """The phases of a step, steps as they are in milliseconds, and what was recorded of others: `run_ms` are those."""

    phases: list[Phase]
    step_ms: list[float]
    recorded: Recorded


@dataclass
class StepRecorder:
    """See `training.phases.Phases`: times the phases of steps, then records steps, then ends the training by `Enough`.

    Steps go on from one epoch into the next: nothing is scored or kept in between.
    """

    plan: Plan
    device: str
    sites: dict[str, Site] = field(default_factory=dict)
    step_ms: list[float] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)  # milliseconds, of each of `step_ms`
    shapes: Shapes = field(default_factory=Shapes)
    recorded: list[profile] = field(default_factory=list)  # for times, with details
    loader: Callable[[], dict[str, Any]] = dict

    def __post_init__(self) -> None:
        self._watch = Watch()
        self._now: dict[str, float] = {}
        self._course = self._all()

    def begin(self, task: Task) -> None:
        """Put the calls of the network under watch."""
        for graph in _graphs(task.network):
            self.sites |= watched(graph, self._watch, Names())

    @contextmanager
    def of(self, name: PhaseName) -> Iterator[None]:
        """See `Phases.of`; on a GPU until it is done."""
        with record_function(name):
            started = self._clock()
            try:
                yield
            finally:
                self._now[name] = self._now.get(name, 0.0) + (self._clock() - started) * 1000

    def reading(self, batches: Batches, number: int, first: int) -> Iterator[Batch]:
        """See `Phases.reading`. Raises Enough."""
        self.loader = batches.facts
        epoch = batches.epoch(number, first)
        for _ in self._course:
            with self.of("loader"):
                while (batch := next(epoch, None)) is None:
                    number += 1
                    epoch = batches.epoch(number)
            yield batch
        raise Enough

    def close(self) -> None:
        """Stop what still records."""
        self._course.close()

    def _all(self) -> Generator[None]:
        """Around each step: a step runs wherever this yields."""
        self._watch.by = self.shapes
        yield
        self._watch.by = Unwatched()
        yield from self._warm_up()
        yield from self._timed()
        self._watch.by = Ranges()
        yield from self._under_profiler(RECORDED, details=False)
        yield from self._under_profiler(DETAILED, details=True)

    def _warm_up(self) -> Iterator[None]:
        started, steps = time.perf_counter(), 1
        while steps < LEAST_WARM_UP or time.perf_counter() - started < self.plan.warm_up_seconds:
            yield
            steps += 1

    def _timed(self) -> Iterator[None]:
        begun, plan = time.perf_counter(), self.plan
        while len(self.step_ms) < plan.most_runs and (
            len(self.step_ms) < plan.least_runs or time.perf_counter() - begun < plan.seconds
        ):
            now: dict[str, float] = {}
            self._now = now
            started = self._clock()
            yield
            self.step_ms.append((self._clock() - started) * 1000)
            self.phases.append(now)
        self._now = {}

    def _under_profiler(self, steps: int, *, details: bool) -> Iterator[None]:
        found = recorder(self.device, steps, details=details)
        with found:
            for _ in range(SKIPPED + steps):
                with record_function(RUN):
                    yield
                found.step()
        self.recorded.append(found)

    def _clock(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def profile_training(
    name: str, model: ModelHandle, params: Params, ctx: PassContext, plan: Plan, out: Path
) -> ProfiledTraining:
    """Begin the training of a pass, as the pass does; profile some of its steps in this process; traces go into `out`.

    `plan` counts steps. What was trained is thrown away. Validation data are not looked at.

    Raises:
        IncompatibleRecipe: the pass does not train.
        BurnishError: as the pass.
    """
    if not isinstance(params, TrainingParams):
        raise IncompatibleRecipe(
            f"the pass {name} does not train, so there are no steps to profile",
            stage="profiling",
            hint="let the recipe end with finetune, distill or qat",
        )
    seen = StepRecorder(plan, ctx.device)
    samples = {role: one for role, one in ctx.samples.items() if role != "validation"}
    alone = params.model_copy(update={"metric": None, "patience": None})
    try:
        passes.registry.get(name)(model, alone, replace(ctx, samples=samples, phases=seen))
    except Enough:
        return _told(seen, params, out)
    finally:
        seen.close()
    raise RuntimeError(f"the pass {name} ended before its steps were profiled")


def _told(seen: StepRecorder, params: TrainingParams, out: Path) -> ProfiledTraining:
    for_times, with_details = seen.recorded
    phases, steps = _phases(seen), runs_of(for_times)
    rows, stacks = rows_of_steps(steps, seen.sites, seen.shapes.found, phases, on_device=seen.device != "cpu")
    detailed, allocations = runs_of(with_details), allocations_of(with_details, seen.device)

    def operator_of(span: Span) -> str | None:
        return seen.sites[span.name].operator if span.name in seen.sites else None

    whole = sum(phases.values())
    recorded = Recorded(
        rows=rows,
        run_ms=[step.total_us / 1000 for step in steps],
        traces=[
            *traces_of(with_details, allocations, out),
            flame_graph(out / FLAMEGRAPH, "one step", stacks),
        ],
        notes=_notes(seen, params),
        **memory_of(detailed, allocations, operator_of),
    )
    told = [Phase(name=name, mean_ms=spent, share=spent / whole) for name, spent in phases.items()]
    return ProfiledTraining(told, seen.step_ms, recorded)


def _phases(seen: StepRecorder) -> dict[str, float]:
    """Milliseconds of a step; together they are the step."""
    counted = typical(seen.step_ms)
    found = {name: fmean(seen.phases[number].get(name, 0.0) for number in counted) for name in PHASES}
    whole = fmean(seen.step_ms[number] for number in counted)
    return {**found, OTHER: max(whole - sum(found.values()), 0.0)}


def _notes(seen: StepRecorder, params: TrainingParams) -> list[str]:
    notes = [NOTE, f"{MEMORY_NOTE}, as what the optimizer remembers was"]
    if told := seen.loader().get("told"):
        notes.append(f"reading samples: {told}")
    if params.distributed.processes != 1:
        notes.append("one process was profiled: what several wait for one another is not in it")
    return notes


def _graphs(network: nn.Module) -> list[fx.GraphModule]:
    """The outermost graphs of a network."""
    if isinstance(network, fx.GraphModule):
        return [network]
    return [graph for child in network.children() for graph in _graphs(child)]
