"""Code that Inductor compiled, profiled: a row for each call of a kernel or of a library's function.

Kernels do not show in an engine as it is delivered. So a second one is compiled, whose kernels mark themselves, and that is profiled.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from torch import fx
from torch._ops import HigherOrderOperator

from app.catalog.spec import Params
from workers.model_handle import ModelHandle
from workers.profiling.flamegraph import Stack, flame_graph
from workers.profiling.recorded import Plan, Recorded
from workers.profiling.torch_calls import Names, is_call, names_of, site_of
from workers.profiling.torch_record import record, record_details
from workers.profiling.torch_rows import Calls, Shape, Site, kernels_of, mean, rest, rows_of, stacks_of
from workers.profiling.torch_spans import MEMORY_NOTE, Span, allocations_of, memory_of, runs_of
from workers.profiling.torch_traces import FLAMEGRAPH, traces_of
from workers.profiling.turns import typical
from workers.runtimes.base import Engine, Feeds, Runtime
from workers.torch.facts import layers
from workers.torch.inductor_facts import EIGHT_BIT
from workers.torch.inductor_kernels import (
    Kernel,
    called,
    compiled_kernels,
    operator_of,
    plain_name,
    seen_into,
)
from workers.torch.program import Program, load_program

KERNELS = "kernels.json"  # in the folder of an engine that marks its kernels
BETWEEN = "between kernels"
MOST_NAMED = 20
MARKS_NOTE = (
    "the profile is of a second engine, compiled in the same way but for marks that its kernels leave for profilers; the latency is "
    "that of the engine that is delivered"
)
BARE_NOTE = (
    f"the engine leaves no marks of the kernels that Inductor generated, whose time is part of `{BETWEEN}`: profile the model "
    "in place of the engine"
)


@dataclass(frozen=True)
class Marked:
    """A kernel's call, in the terms of the program."""

    kernel: Kernel
    site: Site
    precision: str | None


class TorchInductorProfiler:
    """See `recorded.Profiler` and `recorded.Instrumenting`."""

    runtime: ClassVar[Runtime]
    device: ClassVar[str]

    def instrumented(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """See `recorded.Instrumenting`. Raises as the runtime's `build`."""
        with seen_into():
            engine = self.runtime.build(model, params, out)
        program = load_program(model.path)
        network = program.program.module()
        assert isinstance(network, fx.GraphModule)
        names = names_of(program)
        marked = _marked(engine.path, program, network, names)
        told = {"kernels": [asdict(one) for one in marked], "notes": _notes(network, names, marked)}
        (out / KERNELS).write_text(json.dumps(told), encoding="utf-8")
        return engine

    def profile(
        self, engine: Engine, params: Params, feeds: Sequence[Feeds], plan: Plan, out: Path
    ) -> Recorded:
        """See `recorded.Profiler`."""
        marked, notes = _read(engine.root / KERNELS)
        infer = self.runtime.load(engine, params).run
        runs = record(infer, feeds, plan, self.device)
        run_ms = [run.total_us / 1000 for run in runs]
        counted = [runs[number] for number in typical(run_ms)]
        spent = mean([self._spent(_calls([run], marked)) for run in counted])
        besides = rest(BETWEEN, "other", fmean(run.total_us for run in counted) / 1000, spent.values())
        recorded = record_details(infer, feeds, self.device)
        detailed, allocations = runs_of(recorded), allocations_of(recorded, self.device)
        spans = _calls(detailed, marked)
        sites = {label: _site(label, marked) for label in spent}
        shapes = {one.site.label: Shape(None, one.precision) for one in marked}
        places = {label: _kernel_of(label) for label in spent}
        if self.device != "cpu":
            places |= kernels_of(spans)
        stacks = stacks_of(sites, spent, spans, on_device=self.device != "cpu")
        operators = {
            id(span): sites[label].operator for label in spans for span in spans[label] if label in sites
        }
        return Recorded(
            rows=[*rows_of(sites, spent, shapes, places), besides],
            run_ms=run_ms,
            traces=[
                *traces_of(recorded, allocations, out),
                flame_graph(out / FLAMEGRAPH, "one run", {**stacks, (BETWEEN,): besides.mean_ms}),
            ],
            notes=[*notes, MEMORY_NOTE],
            **memory_of(detailed, allocations, lambda span: operators.get(id(span))),
        )

    def _spent(self, calls: Mapping[str, Sequence[Span]]) -> dict[str, Calls]:
        return {
            label: (len(spans), sum(self._us(span) for span in spans) / 1000)
            for label, spans in calls.items()
        }

    def _us(self, span: Span) -> float:
        return span.total_us if self.device == "cpu" else span.device_us


def _marked(package: Path, program: Program, network: fx.GraphModule, names: Names) -> list[Marked]:
    """The calls of compiled code, each with what it computes."""
    sites = {node.name: site_of(network, node, "", names) for node in network.graph.nodes if is_call(node)}
    precisions = {layer.name: layer.precision for layer in layers(program.program)}
    found = []
    for kernel in compiled_kernels(package, network):
        computed = [sites[node] for node in kernel.nodes if node in sites]
        sources = tuple(dict.fromkeys(source for site in computed for source in site.sources))
        around = _common([site.frames[:-1] for site in computed])
        label = f"{kernel.name}:{kernel.number}"
        site = Site(label, label, operator_of(kernel.name), sources, (*around, label))
        plain = next((precisions[node] for node in kernel.nodes if node in precisions), None)
        found.append(Marked(kernel, site, "int8" if EIGHT_BIT.search(kernel.name) else plain))
    return found


def _common(stacks: Sequence[Stack]) -> Stack:
    """The frames with which all begin."""
    return tuple(
        frames[0] for frames in takewhile(lambda frames: len(set(frames)) == 1, zip(*stacks, strict=False))
    )


def _notes(network: fx.GraphModule, names: Names, marked: Sequence[Marked]) -> list[str]:
    """What the marks cannot tell."""
    told = {source for one in marked for source in one.site.sources}
    untold = [name for name, kind in names.layers.values() if name not in told and "Dropout" not in kind]
    notes = [MARKS_NOTE]
    if untold:
        notes.append(
            f"no kernel is said to compute {', '.join(untold[:MOST_NAMED])}: what hangs on no input was folded into constants, and "
            "what no output needs was left out"
        )
    if any(isinstance(node.target, HigherOrderOperator) for node in network.graph.nodes):
        notes.append(
            "kernels inside of control flow are told by their names alone, and not by the layers that they compute"
        )
    return notes


def _read(path: Path) -> tuple[list[Marked], list[str]]:
    if not path.exists():
        return [], [BARE_NOTE]
    told = json.loads(path.read_bytes())
    marked = [
        Marked(Kernel(**_with_tuples(one["kernel"])), Site(**_with_tuples(one["site"])), one["precision"])
        for one in told["kernels"]
    ]
    return marked, told["notes"]


def _with_tuples(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}


def _calls(runs: Iterable[Span], marked: Sequence[Marked]) -> dict[str, list[Span]]:
    """The calls of runs, by label; those of a kernel that is not known by the kernel's name."""
    labels = {one.kernel.number: one.site.label for one in marked}
    found: dict[str, list[Span]] = {}
    for run in runs:
        kernels = called([one.kernel for one in marked], [span.name for span in run.inner])
        for span, kernel in zip(run.inner, kernels, strict=True):
            label = plain_name(span.name) if kernel is None else labels[kernel.number]
            found.setdefault(label, []).append(span)
    return found


def _site(label: str, marked: Sequence[Marked]) -> Site:
    """Of a label of `_calls`. Where it stands for several kernels of a name, they are one row."""
    known = next((one.site for one in marked if one.site.label == label), None)
    if known is not None:
        return known
    several = [one.site for one in marked if one.kernel.name == label]
    sources = tuple(dict.fromkeys(source for site in several for source in site.sources))
    return Site(label, label, operator_of(label), sources, (label,))


def _kernel_of(label: str) -> str:
    name, _, number = label.rpartition(":")
    return name if number.isdigit() else label
