"""What the calls of an ONNX Runtime session say: rows, memory and a trace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from workers.profiling.chrome import Slice, chrome_trace
from workers.profiling.onnx_labels import Level
from workers.profiling.onnxruntime_trace import SUFFIX, Call, Run
from workers.profiling.recorded import Row, Trace
from workers.profiling.turns import settled
from workers.runtimes.onnx_facts import BLOCKED, DYNAMIC_COMPUTE, INT8_COMPUTE

NOTED = 0.05  # of a run
TRACED_CALLS = 20_000  # of the trace that viewers get
LOOKED_UP = frozenset(("Gather", "GatherND", "GatherElements", "EmbedLayerNormalization"))
LAYOUTS = {BLOCKED: "nchwc", "com.ms.internal.nhwc": "nhwc"}  # by domain
PRECISIONS = {
    "float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64", "int8": "int8", "uint8": "int8",
}  # fmt: skip


@dataclass
class _Node:
    """The calls of one node over all runs."""

    first: Call
    calls: int = 0
    kernels_us: int = 0
    moved_bytes: int = 0


def rows(runs: Sequence[Run], graph: Level) -> list[Row]:
    """The nodes of the engine's graph that were called, in the order of their first calls; times are those of a usual run (`settled`).

    A node with graphs of its own has the time that no node inside took. Where kernels of a GPU were told, a node has their time.
    """
    weights = {tensor.name: tensor for level in graph.levels() for tensor in level.graph.initializer}
    nodes: dict[str, _Node] = {}
    spent: list[dict[str, float]] = []
    for run in runs:
        called: dict[str, _Node] = {}
        host_us: dict[str, float] = {}
        for call in run.all():
            name = call.label or call.name
            node = nodes.setdefault(name, _Node(call))
            node.calls += 1
            host_us[name] = host_us.get(name, 0.0) + call.own_us
            node.moved_bytes += _moved_bytes(call, weights)
            called[call.name] = node
        for kernel in run.kernels:
            owner = called.get(str(kernel.get("args", {}).get("parent_name", "")).removesuffix(SUFFIX))
            if owner is not None:
                owner.kernels_us += int(kernel["dur"])
        spent.append(host_us)
    usual = settled(spent)
    return [_row(name, node, len(runs), usual[name]) for name, node in nodes.items()]


def _row(name: str, node: _Node, runs: int, host_us: float) -> Row:
    told, outputs = node.first.told, _tensors(node.first.told, "output_type_shape")
    moved = None if node.first.has_graphs else round(node.moved_bytes / runs)
    return Row(
        name=name,
        operator=node.first.operator,
        calls=node.calls / runs,
        mean_ms=(node.kernels_us / runs or host_us) / 1000,
        precision=_precision(node.first),
        place=told.get("provider"),
        output=tuple(outputs[0][1]) if outputs else None,
        moved_bytes=moved,
        layout=_layout(node.first),
    )


def _layout(call: Call) -> str | None:
    """Operators on values in another layout have a domain of their own."""
    if call.label is None or call.level is None:
        return None
    return LAYOUTS.get(call.level.graph.node[call.place].domain)


def _precision(call: Call) -> str | None:
    if call.has_graphs:
        return None
    if call.operator in INT8_COMPUTE | DYNAMIC_COMPUTE:
        return "int8"
    types = [
        kind for side in ("input", "output") for kind, _ in _tensors(call.told, f"{side}_type_shape")[:1]
    ]
    return next((PRECISIONS[kind] for kind in types if kind in PRECISIONS), None)


def _tensors(told: Mapping[str, Any], side: str) -> list[tuple[str, list[int]]]:
    return [(kind, shape) for entry in told.get(side, ()) for kind, shape in entry.items()]


def control_flow(runs: Sequence[Run]) -> str | None:
    """How much of the time control flow has for itself, where that is much: what the profiler does for each call is in it."""
    own = sum(call.own_us for run in runs for call in run.all() if call.has_graphs)
    whole = sum(run.duration_us for run in runs)
    if own <= NOTED * whole:
        return None
    return (
        f"{own / whole:.0%} of a run lie between the nodes of control flow: its own work, and that of telling of each call; "
        "without a profiler it is less"
    )


def _moved_bytes(call: Call, weights: Mapping[str, onnx.TensorProto]) -> int:
    """Values as the profiler tells them; weights as the graph has them, as those that were repacked are not told."""
    told = call.told
    values = int(told.get("activation_size", 0)) + int(told.get("output_size", 0))
    if call.label is None or call.level is None:
        return values + int(told.get("parameter_size", 0))
    if call.operator in LOOKED_UP:  # as many rows of a table as come out
        return values + int(told.get("output_size", 0))
    held = call.level.graph.node[call.place].input
    return values + sum(_bytes(weights[name]) for name in held if name in weights)


def _bytes(tensor: onnx.TensorProto) -> int:
    return int(prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def memory(runs: Sequence[Run]) -> dict[str, Any]:
    """`peak_memory_bytes` of the memory that tensors of a run are taken from, and `memory`: its most, by operator, as one ends.

    Weights are not in it. Nothing where the provider does not count.
    """
    by_operator: dict[str, int] = {}
    peak = 0
    for run in runs:
        for call in run.all():
            used = int(call.told.get("mem_bytes_in_use", 0))
            by_operator[call.operator] = max(by_operator.get(call.operator, 0), used)
            peak = max(peak, used, int(call.told.get("mem_in_use_peak", 0)))
    if not peak:
        return {}
    largest = sorted(by_operator.items(), key=lambda item: (-item[1], item[0]))
    return {
        "peak_memory_bytes": peak,
        "memory": [{"operator": operator, "bytes": used} for operator, used in largest if used],
    }


def trace(runs: Sequence[Run], path: Path) -> Trace:
    """The first runs, as many as viewers take, a track for each thread and one for the GPU."""
    tracks: dict[int, list[Slice]] = {}
    kernels: list[Slice] = []
    calls = 0
    for number, run in enumerate(runs):
        calls += sum(1 for _ in run.all())
        if number and calls > TRACED_CALLS:
            break
        threads: dict[int, list[Slice]] = {}
        for call in run.calls:
            threads.setdefault(call.thread, []).append(_slice(call))
        for thread, slices in threads.items():
            whole = Slice(f"run {number + 1}", "run", run.start_us, run.duration_us, inner=slices)
            tracks.setdefault(thread, []).append(whole)
        kernels += [_kernel(event) for event in run.kernels]
    named = {f"thread {thread}": slices for thread, slices in tracks.items()}
    if kernels:
        named["GPU"] = sorted(kernels, key=lambda one: one.start_us)
    return chrome_trace(path, "ONNX Runtime", named)


def _slice(call: Call) -> Slice:
    shown = {
        "operator": call.operator,
        "provider": call.told.get("provider"),
        "inputs": call.told.get("input_type_shape"),
        "outputs": call.told.get("output_type_shape"),
    }
    inner = [_slice(one) for one in call.inner]
    return Slice(call.label or call.name, call.operator, call.start_us, call.duration_us, shown, inner)


def _kernel(event: Mapping[str, Any]) -> Slice:
    return Slice(str(event["name"]), "kernel", int(event["ts"]), int(event["dur"]), event.get("args", {}))
