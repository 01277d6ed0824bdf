"""The rows of a training's steps: what each layer takes forward and backward, and what lies besides."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from workers.profiling.flamegraph import Stack
from workers.profiling.recorded import Row
from workers.profiling.torch_rows import Calls, Shape, Site, kernels_of, mean, spans_of, stacks_of
from workers.profiling.torch_spans import Span

LOADER, FORWARD, LOSS, BACKWARD, OPTIMIZER = PHASES = ("loader", "forward", "loss", "backward", "optimizer")
OTHER = "other"  # of a step: what lies between its phases
GRADIENT = "autograd::engine::evaluate_function"  # how the range begins in which autograd computes a gradient


@dataclass
class _Step:
    """Of one recorded step: its phases, and the calls of layers in two of them. Microseconds; of labels, milliseconds."""

    phases: dict[str, float] = field(default_factory=dict)
    forward: dict[str, Calls] = field(default_factory=dict)
    backward: dict[str, Calls] = field(default_factory=dict)


def rows_of_steps(
    steps: Sequence[Span],
    sites: Mapping[str, Site],
    shapes: Mapping[str, Shape],
    phases: Mapping[str, float],
    *,
    on_device: bool,
) -> tuple[list[Row], dict[Stack, float]]:
    """Rows, and the stacks of a flame graph, which both add up to `phases`: milliseconds of a step without a profiler.

    Each phase is shared out as its ranges were in the recorded steps.
    """
    read = [_read(step, sites, on_device=on_device) for step in steps]
    ranges = spans_of(steps, sites)
    called = {**sites, LOSS: Site(LOSS, LOSS, LOSS, (), (LOSS,))}
    places = kernels_of(ranges)
    rows: list[Row] = []
    stacks: dict[Stack, float] = {}
    for phase, spent in phases.items():
        parts = {
            FORWARD: mean([one.forward for one in read]),
            BACKWARD: mean([one.backward for one in read]),
        }.get(phase, {})
        recorded = sum(one.phases.get(phase, 0.0) for one in read) / len(read) / 1000
        scale = spent / max(recorded, sum(took for _, took in parts.values())) if recorded else 0.0
        scaled = {label: (calls, scale * took) for label, (calls, took) in parts.items()}
        rows += _rows(phase, scaled, called, shapes, places)
        rest = max(spent - sum(took for _, took in scaled.values()), 0.0)
        rows.append(Row(f"{phase}, besides layers" if parts else phase, phase, 1.0, rest))
        inside = stacks_of(called, scaled, ranges if phase == FORWARD else {}, on_device=on_device)
        stacks |= {(phase, *stack): took for stack, took in inside.items()}
        stacks[phase,] = rest
    return rows, stacks


def _rows(
    phase: str,
    spent: Mapping[str, Calls],
    sites: Mapping[str, Site],
    shapes: Mapping[str, Shape],
    places: Mapping[str, str],
) -> Iterator[Row]:
    for label, site in sites.items():
        if label not in spent:
            continue
        calls, took = spent[label]
        backward = phase == BACKWARD
        known = shapes.get(label)
        yield Row(
            name=f"{site.name} (backward)" if backward else site.name,
            operator=f"{site.operator} (backward)" if backward else site.operator,
            calls=calls,
            mean_ms=took,
            precision=known.precision if known else None,
            place=None if backward else places.get(label),
            output=known.output if known and not backward else None,
            sources=site.sources,
        )


def _read(step: Span, sites: Mapping[str, Site], *, on_device: bool) -> _Step:
    found = _Step()
    owners: dict[int, str] = {}
    for one in step.inner:
        if one.name in PHASES:
            found.phases[one.name] = found.phases.get(one.name, 0.0) + one.total_us
        if one.name in (FORWARD, LOSS):
            _walk(one, LOSS if one.name == LOSS else None, sites, found.forward, owners, on_device)
    found.phases[OTHER] = step.total_us - sum(found.phases.values())
    for one in step.all():
        if one.name.startswith(GRADIENT) and one.sequence in owners:
            _add(found.backward, owners[one.sequence], one.device_us if on_device else one.total_us)
    return found


def _walk(
    span: Span,
    label: str | None,
    sites: Mapping[str, Site],
    forward: dict[str, Calls],
    owners: dict[int, str],
    on_device: bool,
) -> None:
    """Note what layers take, and which of them made what autograd goes back through.

    Several operators may have a number of the autograd graph; it is the last of them that has a gradient
    (torch.autograd.profiler.emit_nvtx tells how).
    """
    for one in span.inner:
        inside = one.name if one.name in sites else label
        if one.name in sites:
            nested = sum(inner.total_us for inner in one.all() if inner is not one and inner.name in sites)
            _add(
                forward, one.name, one.own_device_us(sites) if on_device else max(one.total_us - nested, 0.0)
            )
        if inside is not None and one.sequence >= 0:
            owners[one.sequence] = inside
        _walk(one, inside, sites, forward, owners, on_device)


def _add(spent: dict[str, Calls], label: str, us: float) -> None:
    calls, took = spent.get(label, (0.0, 0.0))
    spent[label] = calls + 1, took + us / 1000
