"""ONNX Runtime on CPUs: the engine is the graph after its optimizations, saved; loading it optimizes nothing again."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime import ExecutionMode, GraphOptimizationLevel, InferenceSession, SessionOptions

from app.catalog.runtimes import RUNTIMES, OnnxRuntimeCpuParams
from app.catalog.spec import Params
from app.errors import SignatureMismatch, UnsupportedOperator
from workers.distributions import versions_of
from workers.model_handle import PROTOBUF_LIMIT_BYTES, ModelHandle
from workers.onnx_errors import ORT_ERRORS, explain, refused
from workers.onnx_files import ENTRY, EXTERNAL_TENSOR_BYTES, GRAPH_ALLOWANCE_BYTES, WEIGHTS
from workers.runtimes import conditions, implements
from workers.runtimes.base import Coverage, Engine, Feeds, LoadedEngine
from workers.runtimes.cpu_features import cpu_features
from workers.runtimes.onnx_facts import graph_facts
from workers.runtimes.onnxruntime_coverage import coverage

SPEC = RUNTIMES["onnxruntime-cpu"]
PROVIDERS = ["CPUExecutionProvider"]
LEVELS = {
    "none": GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": GraphOptimizationLevel.ORT_ENABLE_ALL,
}
ERRORS_ONLY = 3
HALF_GROWS = 2  # how much larger an engine can be than its model: fp16 weights come back as fp32
DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(bool)": "bool",
    "tensor(string)": "string", "tensor(bfloat16)": "bfloat16",
}  # fmt: skip
EXCHANGED = frozenset(
    (
        "float16",
        "float32",
        "float64",
        "bool",
        "string",
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
)


class LoadedOnnxRuntime:
    """A session that is ready to run.

    Raises:
        UnsupportedOperator: an input or output is of a type that numpy does not have (bfloat16, 8-bit floats, 4-bit integers).
    """

    def __init__(self, session: InferenceSession):
        self._session = session
        self._names = [value.name for value in session.get_outputs()]
        self.inputs = [_described(value) for value in session.get_inputs()]
        self.outputs = [_described(value) for value in session.get_outputs()]
        for entry in (*self.inputs, *self.outputs):
            if entry["dtype"] not in EXCHANGED:
                raise UnsupportedOperator(
                    f"{entry['name']!r} is of type {entry['dtype']}, which an engine does not exchange with numpy",
                    stage="loading",
                    node=entry["name"],
                    hint="cast inside the model, so that its inputs and outputs are of a type that numpy has",
                )

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs by name.

        Raises:
            SignatureMismatch: names, types or shapes of the feeds are not the engine's.
            InvalidModel, OutOfMemory: the engine fails on these inputs.
        """
        try:
            values = self._session.run(self._names, feeds)
        except (ValueError, onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument) as error:
            raise SignatureMismatch(
                f"the engine does not take these inputs: {str(error)[:500]}", stage="running"
            ) from error
        except ORT_ERRORS as error:
            raise explain(error, "running the engine", stage="running") from error
        return dict(zip(self._names, values, strict=True))


@implements(SPEC.name)
class OnnxRuntimeCpu:
    """See `base.Runtime`."""

    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """Optimize the graph at the level that the parameters ask for, and save it with its facts.

        Facts: those of `graph_facts`, and `model_half_weights` (elements that the model held in fp16).

        Raises:
            UnsupportedOperator, InvalidModel: ONNX Runtime refuses the model; the error names node and cause.
        """
        assert isinstance(params, OnnxRuntimeCpuParams)
        options = _options(params)
        options.graph_optimization_level = LEVELS[params.graph_optimization]
        options.optimized_model_filepath = str(out / ENTRY)
        if HALF_GROWS * model.size_bytes + GRAPH_ALLOWANCE_BYTES > PROTOBUF_LIMIT_BYTES:
            entry = "session.optimized_model_external_initializers"
            options.add_session_config_entry(f"{entry}_file_name", WEIGHTS)
            options.add_session_config_entry(f"{entry}_min_size_in_bytes", str(EXTERNAL_TENSOR_BYTES))
        with refused("building the engine with ONNX Runtime", stage="building"):
            InferenceSession(str(model.path), options, providers=PROVIDERS)
        facts = graph_facts(out / ENTRY)
        facts["model_half_weights"] = graph_facts(model.path)["half_weights"]
        return Engine(out, ENTRY, facts)

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The engine in memory, on the CPU provider alone.

        Raises:
            InvalidModel, UnsupportedOperator: this machine or version cannot load it.
        """
        assert isinstance(params, OnnxRuntimeCpuParams)
        options = _options(params)
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        with refused("loading the engine with ONNX Runtime", stage="loading"):
            return LoadedOnnxRuntime(InferenceSession(str(engine.path), options, providers=PROVIDERS))

    def validity(self, engine: Engine, params: Params) -> dict[str, Any]:
        """Where the engine is valid: {runtime, version, device, architecture, cpu_features, threads, inputs, conditions}.

        `cpu_features` must all be there; it is empty where the engine holds no layout for one vector width. `version`
        is the one that built it: the operators that ONNX Runtime fuses into are its own, and change between releases.
        """
        assert isinstance(params, OnnxRuntimeCpuParams)
        return {
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "device": SPEC.device,
            "architecture": platform.machine(),
            "cpu_features": cpu_features() if engine.facts["hardware_layout"] else [],
            "threads": params.threads or usable_processors(),
            "inputs": self.load(engine, params).inputs,
            "conditions": conditions.listed(
                conditions.onnxruntime_cpu(onnxruntime.__version__, engine.facts)
            ),
        }

    def coverage(self, model: ModelHandle) -> Coverage:
        """See `onnxruntime_coverage.coverage`."""
        return coverage(model)

    def versions(self) -> Mapping[str, str]:
        """Distributions that matter for results."""
        return versions_of(SPEC.packages)


def usable_processors() -> int:
    """Processors that this process may use (its affinity, where the system knows one)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _options(params: OnnxRuntimeCpuParams) -> SessionOptions:
    options = SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = params.threads or usable_processors()
    options.inter_op_num_threads = params.inter_op_threads
    parallel = params.execution_mode == "parallel"
    options.execution_mode = ExecutionMode.ORT_PARALLEL if parallel else ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = params.memory_arena
    options.enable_mem_pattern = params.memory_pattern
    spinning = "1" if params.allow_spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    options.add_session_config_entry("session.set_denormal_as_zero", "1" if params.denormals_as_zero else "0")
    return options


def _described(value: Any) -> dict[str, Any]:
    kind = value.type
    return {
        "name": value.name,
        "dtype": DTYPES.get(kind, kind.removeprefix("tensor(").removesuffix(")")),
        "shape": [dim if isinstance(dim, int) and dim >= 0 else None for dim in value.shape],
    }
