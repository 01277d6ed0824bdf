"""What ONNX Runtime's profiler writes: the calls of nodes by run, those inside control flow below the node around them.

Times are whole microseconds, rounded down, so a call may seem to begin or end a little outside of the node around it. Events come
in the order in which they ended, or began, by release.

Source: onnxruntime/core/common/profiler.cc and the tools that come with it (`transformers/profile_result_processor.py`).
"""

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers.profiling.onnx_labels import Level

NODE, KERNEL = "Node", "Kernel"  # categories; kernels of GPUs are told where ONNX Runtime was built for that
SUFFIX = "_kernel_time"
RUN = "model_run"
_NAME = re.compile(r'("name" :")(.*)(","args" : \{)')


@dataclass
class Call:
    """One call of a node. `label` is that of the node in the engine's graph; None: it is not there."""

    name: str
    operator: str
    place: int  # of the node in its graph
    start_us: int
    duration_us: int
    thread: int
    told: Mapping[str, Any]
    label: str | None = None
    level: Level | None = None  # the graph that holds the node
    inner: list["Call"] = field(default_factory=list)

    @property
    def end_us(self) -> int:
        """When it ended."""
        return self.start_us + self.duration_us

    @property
    def own_us(self) -> int:
        """Without what its graphs took."""
        return max(self.duration_us - sum(call.duration_us for call in self.inner), 0)

    @property
    def has_graphs(self) -> bool:
        """Whether its node is control flow."""
        return self.level is not None and self.place in self.level.bodies

    def all(self) -> Iterator["Call"]:
        """It and all inside it."""
        yield self
        for call in self.inner:
            yield from call.all()


@dataclass
class Run:
    """One inference: the calls of the main graph's nodes in the order of time, and the kernels that a GPU ran."""

    start_us: int
    duration_us: int
    calls: list[Call] = field(default_factory=list)
    kernels: list[Mapping[str, Any]] = field(default_factory=list)

    def all(self) -> Iterator[Call]:
        """Every call, those inside control flow too."""
        for call in self.calls:
            yield from call.all()


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a trace. ONNX Runtime writes names as they are: those that break the JSON are mended."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        found: list[dict[str, Any]] = json.loads(text)
        return found
    except ValueError:
        lines = (line.rstrip().removesuffix(",") for line in text.splitlines())
        return [json.loads(_NAME.sub(_quoted, line)) for line in lines if line.startswith("{")]


def _quoted(found: re.Match[str]) -> str:
    return f'"name" :{json.dumps(found[2])}{found[3].removeprefix(chr(34))}'


def runs_of(events: Sequence[Mapping[str, Any]], graph: Level) -> list[Run]:
    """The complete runs of a session, in order; `graph` is the engine's."""
    runs = sorted(
        (Run(int(event["ts"]), int(event["dur"])) for event in events if event["name"] == RUN),
        key=lambda run: run.start_us,
    )
    starts = [run.start_us for run in runs]
    by_run: list[list[Call]] = [[] for _ in runs]
    for event in events:
        kind, number = event.get("cat"), bisect_right(starts, int(event["ts"])) - 1
        if number < 0 or int(event["ts"]) > runs[number].start_us + runs[number].duration_us:
            continue
        if kind == NODE and str(event["name"]).endswith(SUFFIX):
            by_run[number].append(_call(event))
        elif kind == KERNEL:
            runs[number].kernels.append(event)
    for run, calls in zip(runs, by_run, strict=True):
        run.calls = _nested(calls, graph)
    return runs


def _call(event: Mapping[str, Any]) -> Call:
    told = event.get("args", {})
    return Call(
        name=str(event["name"]).removesuffix(SUFFIX),
        operator=str(told.get("op_name", "")),
        place=int(told.get("node_index", -1)),
        start_us=int(event["ts"]),
        duration_us=int(event["dur"]),
        thread=int(event["tid"]),
        told=told,
    )


def _nested(calls: list[Call], graph: Level) -> list[Call]:
    """Put calls into the calls around them; those of the main graph."""
    outer: list[Call] = []
    around: dict[int, list[Call]] = {}  # by thread: calls of nodes with graphs, the innermost last
    for call in sorted(calls, key=lambda one: (one.start_us, -one.end_us)):
        stack = around.setdefault(call.thread, [])
        while stack and stack[-1].end_us < call.start_us:
            stack.pop()
        holder = _holder(call, stack, graph)
        (outer if holder is None else holder.inner).append(call)
        if call.has_graphs:
            stack.append(call)
    return outer


def _holder(call: Call, stack: Sequence[Call], graph: Level) -> Call | None:
    """The innermost call whose graphs have such a node, None for the main graph; the call gets label and level."""
    inside = [one for one in reversed(stack) if call.start_us < one.end_us]
    touching = [one for one in reversed(stack) if call.start_us == one.end_us]
    for holder in (*inside, None, *touching):
        for level in _bodies(holder, graph):
            if (place := _place(call, level)) is not None:
                call.place, call.level, call.label = place, level, level.labels[place]
                return holder
    return inside[0] if inside else None


def _bodies(holder: Call | None, graph: Level) -> list[Level]:
    if holder is None:
        return [graph]
    return list(holder.level.bodies[holder.place].values()) if holder.level is not None else []


def _place(call: Call, level: Level) -> int | None:
    """Where a graph has the node; a provider may have put others before it when the engine was loaded."""
    nodes = level.graph.node
    if 0 <= call.place < len(nodes) and _is(call, nodes[call.place]):
        return call.place
    place = level.places.get(call.name)
    return place if place is not None and _is(call, nodes[place]) else None


def _is(call: Call, node: Any) -> bool:
    return bool(node.op_type == call.operator and node.name in ("", call.name))
