"""TensorRT and TensorRT for RTX: the time of each layer after fusion, joined with what the engine's inspector tells of it.

Never run: its makers had no machine with these libraries and a GPU for them. It follows the bindings that are installed, and the
documents of both libraries.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html (per-layer runtime) and
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-tools.html (engine inspector).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from app.catalog.spec import Params
from workers.profiling.chrome import LAID_OUT, laid_out
from workers.profiling.recorded import Plan, Recorded, Row
from workers.profiling.turns import take_turns, typical
from workers.runtimes.base import Engine, Feeds
from workers.tensorrt.clock import layer_clock
from workers.tensorrt.inspect import information, layer_of
from workers.tensorrt.library import library
from workers.tensorrt.loaded import LoadedTensorRt
from workers.tensorrt.runtime import TensorRtRuntime

TRACE = "tensorrt-trace.json"
NO_GRAPHS = "layers were launched one by one: a recorded CUDA graph runs as one, and layers are not told"
UNTOLD = "the engine tells nothing of its layers but their names"
UNKNOWN = "unknown"
BETWEEN_ENTRIES = "\x1e"  # of a layer's metadata: `[ONNX Layer: conv1]`
ENTRY = "[ONNX Layer: "
FUSED = " + "

Told = Sequence[tuple[str, float]]  # a run's layers with their milliseconds


class LayerProfiler:
    """See `recorded.Profiler`; one subclass a library. Rows are layers of the engine; `sources` are names of ONNX nodes."""

    runtime: ClassVar[TensorRtRuntime]

    def profile(
        self, engine: Engine, params: Params, feeds: Sequence[Feeds], plan: Plan, out: Path
    ) -> Recorded:
        """See `recorded.Profiler`. Runs whose layers are told wait for the GPU, and copy inputs and outputs."""
        loaded = self.runtime.load(engine, params.model_copy(update={"cuda_graphs": False}))
        assert isinstance(loaded, LoadedTensorRt)
        trt = library(self.runtime.name)
        clock = layer_clock(trt)
        loaded.tell(clock)
        runs: list[Told] = []
        turns = take_turns(loaded.run, feeds, plan, warm=clock.take, after=lambda: runs.append(clock.take()))
        told = information(trt, loaded.engine, loaded.context)
        rows = rows_of([runs[number] for number in typical(turns.run_ms)], told)
        notes = [LAID_OUT]
        if getattr(params, "cuda_graphs", False):
            notes.append(NO_GRAPHS)
        if all(row.operator == UNKNOWN for row in rows):
            notes.append(UNTOLD)
        return Recorded(rows, turns.run_ms, [laid_out(rows, out / TRACE, trt.runtime)], notes)


def rows_of(runs: Sequence[Told], told: Mapping[str, Any]) -> list[Row]:
    """The layers of several runs in the order in which they ran, with what the inspector says of those of the same name."""
    spent: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for run in runs:
        for name, milliseconds in run:
            spent[name] += milliseconds
            calls[name] += 1
    known = {layer_of(one)["name"]: one for one in told.get("Layers", ())}
    return [
        _row(name, calls[name] / len(runs), spent[name] / len(runs), known.get(name, name)) for name in spent
    ]


def _row(name: str, calls: float, mean_ms: float, told: Any) -> Row:
    layer = layer_of(told)
    return Row(
        name=name,
        operator=layer["type"],
        calls=calls,
        mean_ms=mean_ms,
        precision=layer["precision"] if layer["precision"] != UNKNOWN else None,
        place=layer["tactic"],
        output=_shape(told) if isinstance(told, Mapping) else None,
        sources=_nodes(told) if isinstance(told, Mapping) else tuple(name.split(FUSED)),
    )


def _shape(told: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Of the first output; None where a dimension is not known."""
    outputs = told.get("Outputs") or [{}]
    dims = outputs[0].get("Dimensions")
    return tuple(dims) if isinstance(dims, list) and all(dim >= 0 for dim in dims) else None


def _nodes(told: Mapping[str, Any]) -> tuple[str, ...]:
    """The ONNX nodes that a layer says it comes from; what it is called after where it says nothing."""
    entries = str(told.get("Metadata") or "").split(BETWEEN_ENTRIES)
    nodes = [entry[len(ENTRY) : -1] for entry in entries if entry.startswith(ENTRY) and entry.endswith("]")]
    return tuple(dict.fromkeys(nodes or str(told.get("Name", "")).split(FUSED)))
