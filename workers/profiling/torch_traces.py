"""Files of a `torch.profiler` recording that viewers open."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.profiler import profile

from workers.profiling.recorded import Trace
from workers.profiling.torch_spans import RUN, Allocation, results_of

CHROME, TENSORBOARD, OPERATORS = "torch-trace.json", "torch-tensorboard.zip", "torch-operators.txt"
FLAMEGRAPH = "torch-flamegraph.speedscope.json"
OF_THIS_MACHINE = ("host_name", "traceName", "trace_id")  # what a trace says of where it was taken
NUMBERS = frozenset(("External id", "Record function id", "Ev Idx"))
LOGGED = "burnish"  # what TensorBoard calls the recording
EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's first moment, so that equal traces make equal files


def traces_of(recorded: profile, allocations: Sequence[Allocation], out: Path) -> list[Trace]:
    """Write a recording: for Perfetto, with tensors' memory over time; as TensorBoard's profiler plugin finds it; and torch's table."""
    recorded.export_chrome_trace(str(out / CHROME))
    told: dict[str, Any] = json.loads((out / CHROME).read_text(encoding="utf-8"))
    told = {name: value for name, value in told.items() if name not in OF_THIS_MACHINE}
    _tensorboard(told, out / TENSORBOARD)
    (out / CHROME).write_text(_compact(_for_viewers(told, recorded, allocations)), encoding="utf-8")
    table = recorded.key_averages().table(
        sort_by="self_cpu_time_total", row_limit=-1, max_name_column_width=80
    )
    (out / OPERATORS).write_text(table + "\n", encoding="utf-8")
    return [
        Trace("chrome", out / CHROME, "application/json"),
        Trace("tensorboard", out / TENSORBOARD, "application/zip"),
        Trace("runtime", out / OPERATORS, "text/plain"),
    ]


def _for_viewers(
    told: Mapping[str, Any], recorded: profile, allocations: Sequence[Allocation]
) -> dict[str, Any]:
    """torch's own trace with a counter of the memory that tensors took since the recording began.

    Without what torch tells of itself on processes without a number, over which speedscope 1.25 falls, and without numbers of
    events, which it takes for a part of their names.
    """
    events = [
        {
            **event,
            "args": {name: value for name, value in event.get("args", {}).items() if name not in NUMBERS},
        }
        for event in told["traceEvents"]
        if isinstance(event.get("pid"), int)
    ]
    process = next((event["pid"] for event in events if event.get("name") == RUN), None)
    if process is not None:
        events += _counter(recorded, allocations, process, told.get("baseTimeNanoseconds", 0))
    return {**told, "traceEvents": events}


def _counter(
    recorded: profile, allocations: Sequence[Allocation], process: int, base_ns: int
) -> list[dict[str, Any]]:
    origin_us = (results_of(recorded).trace_start_ns() - base_ns) / 1000
    events, used = [], 0
    for one in allocations:
        used += one.size
        at = {"ph": "C", "name": "tensor memory", "pid": process, "ts": round(origin_us + one.at_us, 3)}
        events.append({**at, "args": {"bytes": used}})
    return events


def _tensorboard(trace: Mapping[str, Any], path: Path) -> None:
    """The folder that `torch.profiler.tensorboard_trace_handler` leaves; unpacked, it is TensorBoard's `--logdir`."""
    name = f"plugins/profile/{LOGGED}/{LOGGED}.1.pt.trace.json"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name, EPOCH), _compact(trace), zipfile.ZIP_DEFLATED)


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
