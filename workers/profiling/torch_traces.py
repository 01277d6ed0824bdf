"""Files of a `torch.profiler` recording that viewers open."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.profiler import profile

from workers.profiling.recorded import Trace
from workers.profiling.torch_spans import Allocation, results_of

CHROME, TENSORBOARD, OPERATORS = "torch-trace.json", "torch-tensorboard.zip", "torch-operators.txt"
FLAMEGRAPH = "torch-flamegraph.speedscope.json"
OF_THIS_MACHINE = ("host_name", "traceName", "trace_id")  # what a trace says of where it was taken
RUN = "burnish"  # what TensorBoard calls the recording
EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's first moment, so that equal traces make equal files


def traces_of(recorded: profile, allocations: Sequence[Allocation], out: Path) -> list[Trace]:
    """Write a recording: for Perfetto, with tensors' memory over time; as TensorBoard's profiler plugin finds it; and torch's table."""
    told = _chrome(recorded, allocations, out / CHROME)
    _tensorboard(told, out / TENSORBOARD)
    table = recorded.key_averages().table(
        sort_by="self_cpu_time_total", row_limit=-1, max_name_column_width=80
    )
    (out / OPERATORS).write_text(table + "\n", encoding="utf-8")
    return [
        Trace("chrome", out / CHROME, "application/json"),
        Trace("tensorboard", out / TENSORBOARD, "application/zip"),
        Trace("runtime", out / OPERATORS, "text/plain"),
    ]


def _chrome(recorded: profile, allocations: Sequence[Allocation], path: Path) -> str:
    """torch's own trace, and a counter of the memory that tensors took since the recording began."""
    recorded.export_chrome_trace(str(path))
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in OF_THIS_MACHINE:
        told.pop(name, None)
    first = next(
        (event for event in told["traceEvents"] if str(event.get("name", "")).startswith("ProfilerStep")),
        None,
    )
    if first is not None and allocations:
        told["traceEvents"] += _counter(
            recorded, allocations, first["pid"], told.get("baseTimeNanoseconds", 0)
        )
    text = json.dumps(told, separators=(",", ":"))
    path.write_text(text, encoding="utf-8")
    return text


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


def _tensorboard(trace: str, path: Path) -> None:
    """The folder that `torch.profiler.tensorboard_trace_handler` leaves; unpacked, it is TensorBoard's `--logdir`."""
    name = f"plugins/profile/{RUN}/{RUN}.1.pt.trace.json"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(name, EPOCH), trace, zipfile.ZIP_DEFLATED)
