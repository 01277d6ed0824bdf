"""Traces in Chrome's format, which Perfetto, speedscope and chrome://tracing open.

Source: "Trace Event Format" (https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from workers.profiling.recorded import Row, Trace

LAID_OUT = "the runtime tells how long its layers take, not when: in the trace they stand one behind another"
MEDIA_TYPE = "application/json"
PROCESS = 1
NANOSECONDS = 3  # digits of microseconds


@dataclass
class Slice:
    """A span of time on a thread, and those inside it. Times are microseconds since any moment."""

    name: str
    category: str
    start_us: float
    duration_us: float
    args: Mapping[str, Any] = field(default_factory=dict)
    inner: Sequence["Slice"] = ()


def chrome_trace(path: Path, process: str, threads: Mapping[str, Sequence[Slice]]) -> Trace:
    """Write slices by the name of their thread.

    Viewers drop slices that overlap without one lying in the other, as rounded times do: what reaches out of its outer slice,
    or into the next one, is cut there.
    """
    events: list[dict[str, Any]] = [_named("process_name", process, 0)]
    for number, (thread, slices) in enumerate(threads.items(), start=1):
        events.append(_named("thread_name", thread, number))
        _laid(slices, number, (0.0, inf), events)
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")
    return Trace("chrome", path, MEDIA_TYPE)


def laid_out(rows: Sequence[Row], path: Path, process: str) -> Trace:
    """A trace of one run of a runtime that tells how long its parts take, not when: one behind another, in the order of the rows."""
    slices, at = [], 0.0
    for row in rows:
        shown = {
            "operator": row.operator,
            "kernel": row.place,
            "precision": row.precision,
            "output": row.output,
        }
        slices.append(Slice(row.name, row.operator, at, row.mean_ms * 1000, shown))
        at += row.mean_ms * 1000
    return chrome_trace(path, process, {"mean of the runs": [Slice("run", "run", 0.0, at, inner=slices)]})


def _named(what: str, name: str, thread: int) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": PROCESS, "tid": thread, "args": {"name": name}}


def _laid(
    slices: Sequence[Slice], thread: int, within: tuple[float, float], events: list[dict[str, Any]]
) -> None:
    free, end = within
    for number, one in enumerate(slices):
        start = round(min(max(one.start_us, free), end), NANOSECONDS)
        limit = max(min(slices[number + 1].start_us, end), start) if number + 1 < len(slices) else end
        free = round(min(start + one.duration_us, limit), NANOSECONDS)
        event = {"ph": "X", "name": one.name, "cat": one.category, "pid": PROCESS, "tid": thread}
        event |= {"ts": start, "dur": round(free - start, NANOSECONDS), "args": dict(one.args)}
        events.append(event)
        _laid(one.inner, thread, (start, free), events)
