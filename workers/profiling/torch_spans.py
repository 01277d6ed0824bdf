"""What `torch.profiler` recorded: steps, what was called in them, and the memory that tensors took.

Source: https://docs.pytorch.org/docs/stable/profiler.html; seen in torch 2.13 (torch/autograd/profiler_util.py: FunctionEvent).
"""

from bisect import bisect_right
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, schedule

STEP = "ProfilerStep"
MEMORY = "[memory]"
SKIPPED = 2  # steps before the recorded ones: one without the profiler, and one that warms it up


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


def recorder(device: str, steps: int, *, details: bool) -> profile:
    """A profiler that records `steps` after `SKIPPED` others; with shapes and memory where details are wanted, which costs time."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    return profile(
        activities=activities,
        schedule=schedule(wait=1, warmup=SKIPPED - 1, active=steps, repeat=1),
        record_shapes=details,
        profile_memory=details,
        acc_events=True,
    )


def steps_of(recorded: profile) -> list[Span]:
    """The recorded steps in order, with what was called in them on any thread."""
    listed: Any = recorded.events  # untyped in torch
    events = [event for event in listed() if event.device_type == DeviceType.CPU and not event.is_async]
    top = [_span(event) for event in events if event.cpu_parent is None and event.name != MEMORY]
    steps = sorted((one for one in top if one.name.startswith(STEP)), key=lambda one: one.start_us)
    starts = [one.start_us for one in steps]
    for one in top:
        number = bisect_right(starts, one.start_us) - 1
        if not one.name.startswith(STEP) and number >= 0 and one.start_us < steps[number].end_us:
            steps[number].inner.append(one)
    for step in steps:
        step.inner.sort(key=lambda one: one.start_us)
    return steps


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
    steps: Sequence[Span], allocations: Sequence[Allocation], operator_of: Callable[[Span], str | None]
) -> dict[str, Any]:
    """`peak_memory_bytes`: the most at once since a step began; `memory`: the most while each operator ran, see `Recorded`.

    `operator_of` names the spans that count.
    """
    peak, by_operator = 0, dict[str, int]()
    for step in steps:
        calls = [(one, name) for one in step.all() if (name := operator_of(one)) is not None]
        starts = [one.start_us for one, _ in calls]
        used = 0
        for one in allocations:
            if not step.start_us <= one.at_us < step.end_us:
                continue
            used += one.size
            peak = max(peak, used)
            number = bisect_right(starts, one.at_us) - 1
            if number >= 0 and one.at_us < calls[number][0].end_us:
                name = calls[number][1]
                by_operator[name] = max(by_operator.get(name, 0), used)
    largest = sorted(by_operator.items(), key=lambda item: (-item[1], item[0]))
    return {
        "peak_memory_bytes": peak,
        "memory": [{"operator": name, "bytes": size} for name, size in largest],
    }
