"""What `torch.profiler` recorded: runs, what was called in them, and the memory that tensors took.

Source: https://docs.pytorch.org/docs/stable/profiler.html; seen in torch 2.13 (torch/autograd/profiler_util.py: FunctionEvent).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

RUN = "run"  # the range that a run, or a step of a training, is recorded as
MEMORY = "[memory]"
MEMORY_NOTE = "the peak of memory is of what a run takes besides weights, which were there before"
SKIPPED = 2  # runs before the recorded ones: one without the profiler, and one that warms it up


@dataclass
class Span:
    """A range or an operator. Times are microseconds since the trace began; `kernels` are those of a GPU that it started itself."""

    name: str
    start_us: float
    end_us: float
    sequence: int  # of the autograd graph: an operator and what computes its gradient share it; -1: none
    kernels: list[tuple[str, float]] = field(default_factory=list)
    inner: list["Span"] = field(default_factory=list)

    @property
    def total_us(self) -> float:
        """All of it."""
        return self.end_us - self.start_us

    @property
    def own_us(self) -> float:
        """Without what is inside it."""
        return max(self.total_us - sum(one.total_us for one in self.inner), 0.0)

    @property
    def device_us(self) -> float:
        """Of the kernels of all that is inside it."""
        return sum(spent for one in self.all() for _, spent in one.kernels)

    def own_device_us(self, others: Container[str]) -> float:
        """The same without spans of these names that are inside it."""
        inner = sum(one.own_device_us(others) for one in self.inner if one.name not in others)
        return inner + sum(spent for _, spent in self.kernels)

    def all(self) -> Iterator["Span"]:
        """It and all inside it, in order."""
        yield self
        for one in self.inner:
            yield from one.all()


@dataclass(frozen=True)
class Allocation:
    """Memory that a tensor took, or gave back where negative."""

    at_us: float
    size: int


def recorder(device: str, runs: int, *, details: bool) -> profile:
    """A profiler that records `runs` after `SKIPPED` others; with shapes and memory where details are wanted, which costs time."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    return profile(
        activities=activities,
        schedule=schedule(wait=1, warmup=SKIPPED - 1, active=runs, repeat=1),
        record_shapes=details,
        profile_memory=details,
        acc_events=True,
    )


def runs_of(recorded: profile) -> list[Span]:
    """The recorded runs in order, with what was called in them on any thread."""
    listed: Any = recorded.events  # untyped in torch
    events = [event for event in listed() if event.device_type == DeviceType.CPU and not event.is_async]
    spans = {id(event): _span(event) for event in events if event.name == RUN}
    runs = sorted(spans.values(), key=lambda one: one.start_us)
    starts = [one.start_us for one in runs]
    for event in events:
        number = bisect_right(starts, event.time_range.start) - 1
        elsewhere = event.cpu_parent is None and event.name != MEMORY and id(event) not in spans
        if elsewhere and number >= 0 and event.time_range.start < runs[number].end_us:
            runs[number].inner.append(_span(event))
    for run in runs:
        run.inner.sort(key=lambda one: one.start_us)
    return runs


def _span(event: Any) -> Span:
    found = Span(event.name, event.time_range.start, event.time_range.end, event.sequence_nr)
    found.kernels = [(kernel.name, kernel.duration) for kernel in event.kernels]
    found.inner = [_span(child) for child in event.cpu_children if child.name != MEMORY]
    return found


def results_of(recorded: profile) -> Any:
    """What kineto recorded, below torch's own events."""
    assert recorded.profiler is not None  # it was started
    return recorded.profiler.kineto_results


def allocations_of(recorded: profile, device: str) -> list[Allocation]:
    """Memory of tensors on the device in the order of time; of weights nothing, which were there before."""
    results = results_of(recorded)
    kind, origin = DeviceType.CUDA if device == "cuda" else DeviceType.CPU, results.trace_start_ns()
    found = [
        Allocation((event.start_ns() - origin) / 1000, event.nbytes())
        for event in results.events()
        if event.name() == MEMORY and event.device_type() == kind
    ]
    return sorted(found, key=lambda one: one.at_us)


def memory_of(
    runs: Sequence[Span], allocations: Sequence[Allocation], operator_of: Callable[[Span], str | None]
) -> dict[str, Any]:
    """`peak_memory_bytes`: the most at once since a run began; `memory`: the most while each operator ran, see `Recorded`.

    `operator_of` names the spans that count.
    """
    peak, by_operator = 0, dict[str, int]()
    for run in runs:
        calls = [(one, name) for one in run.all() if (name := operator_of(one)) is not None]
        inside = [one for one in allocations if run.start_us <= one.at_us < run.end_us]
        levels = [0, *accumulate(one.size for one in inside)]
        times = [one.at_us for one in inside]
        peak = max(peak, *levels)
        for call, name in calls:
            first, last = bisect_left(times, call.start_us), bisect_left(times, call.end_us)
            by_operator[name] = max(by_operator.get(name, 0), *levels[first : last + 1])
    largest = sorted(by_operator.items(), key=lambda item: (-item[1], item[0]))
    return {
        "peak_memory_bytes": peak,
        "memory": [{"operator": name, "bytes": size} for name, size in largest if size > 0],
    }
