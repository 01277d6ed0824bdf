"""ONNX Runtime's own profiler: the time of each node of the engine's graph.

Source: https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import onnx
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from app.catalog.spec import Params
from workers.onnx_errors import refused
from workers.profiling.onnx_labels import labelled
from workers.profiling.onnxruntime_rows import control_flow, memory, rows, trace
from workers.profiling.onnxruntime_trace import read_events, runs_of
from workers.profiling.recorded import Plan, Recorded
from workers.profiling.turns import take_turns, typical
from workers.runtimes.base import Engine, Feeds
from workers.runtimes.onnxruntime_session import LoadedOnnxRuntime, silent_options

MOST_EVENTS = 100_000  # that a session writes, some 600 bytes each; ONNX Runtime itself drops what comes after a million
TRACE = "onnxruntime-trace.json"
NOTE = "ONNX Runtime tells whole microseconds, rounded down: nodes of a few microseconds are told too short"


class Opening(Protocol):
    """A runtime of ONNX Runtime."""

    def options(self, params: Params) -> SessionOptions: ...
    def open(self, engine: Engine, params: Params, options: SessionOptions) -> LoadedOnnxRuntime: ...


class OnnxRuntimeProfiler:
    """See `recorded.Profiler`; one subclass a runtime. Rows are nodes of the engine's graph, called as `onnx_labels.labelled` has it."""

    runtime: ClassVar[Opening]
    notes: ClassVar[tuple[str, ...]] = (NOTE,)

    def profile(
        self, engine: Engine, params: Params, feeds: Sequence[Feeds], plan: Plan, out: Path
    ) -> Recorded:
        """See `recorded.Profiler`.

        A session writes what it does from its first moment on and can hold only so much, so one of a single run tells first how much
        a run is.
        """
        notes = list(self.notes)
        graph = labelled(engine_graph(engine).graph)
        with tempfile.TemporaryDirectory(dir=out) as scratch:
            session = self._profiled(engine, params, Path(scratch) / "one")
            session.run(feeds[0])
            events = len(read_events(session.end_profiling()))
            session = self._profiled(engine, params, Path(scratch) / "all")
            turns = take_turns(session.run, feeds, plan, most=max(MOST_EVENTS // events, 2))
            found = runs_of(read_events(session.end_profiling()), graph)[turns.warm_up :]
        if len(turns.run_ms) < plan.least_runs:
            notes.append(f"a run writes {events:,} events, so no more than {len(turns.run_ms)} were profiled")
        counted = [found[number] for number in typical(turns.run_ms[: len(found)])]
        if (told := control_flow(counted)) is not None:
            notes.append(told)
        return Recorded(
            rows=rows(counted, graph),
            run_ms=turns.run_ms,
            traces=[trace(found, out / TRACE)],
            notes=notes,
            **memory(counted),
        )

    def _profiled(self, engine: Engine, params: Params, prefix: Path) -> LoadedOnnxRuntime:
        options = self.runtime.options(params)
        options.enable_profiling = True
        options.profile_file_prefix = str(prefix)
        return self.runtime.open(engine, params, options)


def engine_graph(engine: Engine) -> onnx.ModelProto:
    """The graph of an engine, without weights; of one in the ort format as ONNX Runtime writes it.

    Raises:
        InvalidModel, UnsupportedOperator: ONNX Runtime cannot load it.
    """
    if engine.path.suffix != ".ort":
        return onnx.load(str(engine.path), load_external_data=False)
    with tempfile.TemporaryDirectory() as folder:
        options = silent_options()
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(Path(folder) / "graph.onnx")
        with refused("reading the engine with ONNX Runtime", stage="profiling"):
            InferenceSession(str(engine.path), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)
