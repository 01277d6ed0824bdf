"""Rows of what PyTorch ran, by site: a place in a network, or in compiled code, where something is called."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from workers.profiling.flamegraph import Stack
from workers.profiling.recorded import Row
from workers.profiling.torch_spans import Span
from workers.profiling.turns import settled

Calls = tuple[float, float]  # how many, and what they took together in milliseconds


@dataclass(frozen=True)
class Site:
    """Where something is called: `label` is of it alone, `name` is for people, `frames` lead to it from the outermost module."""

    label: str
    name: str
    operator: str
    sources: tuple[str, ...]  # see `recorded.Row`
    frames: Stack


@dataclass(frozen=True)
class Shape:
    """Of the first output of a call, and what the call computes in."""

    output: tuple[int, ...] | None
    precision: str | None


def mean(runs: Sequence[Mapping[str, Calls]]) -> dict[str, Calls]:
    """The calls of one run by label, over several."""
    times = settled([{label: spent for label, (_, spent) in run.items()} for run in runs])
    return {
        label: (sum(run.get(label, (0, 0))[0] for run in runs) / len(runs), spent)
        for label, spent in times.items()
    }


def rows_of(
    sites: Mapping[str, Site],
    spent: Mapping[str, Calls],
    shapes: Mapping[str, Shape],
    kernels: Mapping[str, str],
) -> list[Row]:
    """The sites that were called, in their order. `kernels` says what most of the time of each went to."""
    return [
        Row(
            name=site.name,
            operator=site.operator,
            calls=spent[label][0],
            mean_ms=spent[label][1],
            precision=shapes[label].precision if label in shapes else None,
            place=kernels.get(label),
            output=shapes[label].output if label in shapes else None,
            sources=site.sources,
        )
        for label, site in sites.items()
        if label in spent
    ]


def rest(name: str, operator: str, run_ms: float, calls: Iterable[Calls]) -> Row:
    """What a run takes besides its calls, as a row of no layer."""
    return Row(name, operator, 1.0, max(run_ms - sum(spent for _, spent in calls), 0.0))


def spans_of(runs: Iterable[Span], labels: Iterable[str]) -> dict[str, list[Span]]:
    """The ranges of each label, of all runs."""
    found: dict[str, list[Span]] = {label: [] for label in labels}
    for run in runs:
        for one in run.all():
            if one.name in found:
                found[one.name].append(one)
    return found


def kernels_of(spans: Mapping[str, Sequence[Span]]) -> dict[str, str]:
    """By label: the kernel of a GPU, else the operator, that most of the time went to."""
    return {label: most for label, ranges in spans.items() if (most := _most(ranges, spans)) is not None}


def _most(ranges: Sequence[Span], labels: Mapping[str, object]) -> str | None:
    kernels, operators = Counter[str](), Counter[str]()
    for one in ranges:
        for inner in _inside(one, labels):
            operators[inner.name] += round(inner.own_us * 1000)
            for name, spent in inner.kernels:
                kernels[name] += round(spent * 1000)
    found = (kernels or operators).most_common(1)
    return found[0][0] if found else None


def _inside(one: Span, labels: Mapping[str, object]) -> Iterable[Span]:
    """All inside a range that is in no range of another label."""
    for inner in one.inner:
        if inner.name not in labels:
            yield inner
            yield from _inside(inner, labels)


def stacks_of(
    sites: Mapping[str, Site],
    spent: Mapping[str, Calls],
    spans: Mapping[str, Sequence[Span]],
    *,
    on_device: bool,
) -> dict[Stack, float]:
    """Milliseconds of one run by modules, layer and operators: those of each label, shared out as its ranges were."""
    found: dict[Stack, float] = {}
    for label, site in sites.items():
        if label not in spent:
            continue
        shares: dict[Stack, float] = {}
        for one in spans.get(label, ()):
            _share(one, site.frames, spans, shares, on_device)
        whole = sum(shares.values())
        for stack, part in shares.items() if whole else [(site.frames, 1.0)]:
            found[stack] = found.get(stack, 0.0) + spent[label][1] * part / (whole or 1.0)
    return found


def _share(
    one: Span, stack: Stack, labels: Mapping[str, object], shares: dict[Stack, float], on_device: bool
) -> None:
    own = sum(spent for _, spent in one.kernels) if on_device else one.own_us
    shares[stack] = shares.get(stack, 0.0) + own
    for inner in one.inner:
        if inner.name not in labels:
            _share(inner, (*stack, inner.name), labels, shares, on_device)
