"""ONNX Runtime on CPUs: the engine is the graph after its optimizations, saved; loading it optimizes nothing again."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime import ExecutionMode, GraphOptimizationLevel, InferenceSession, SessionOptions

from app.catalog.runtime_params.onnxruntime import OnnxRuntimeCpuParams
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from app.errors import UnsupportedOperator
from workers.distributions import versions_of
from workers.measure.processors import usable_processors
from workers.model_handle import ModelHandle
from workers.onnx_errors import refused
from workers.onnx_files import ENTRY, WEIGHTS
from workers.runtimes import conditions, implements
from workers.runtimes.base import Coverage, Engine, LoadedEngine
from workers.runtimes.cpu_features import cpu_features
from workers.runtimes.onnx_facts import graph_facts
from workers.runtimes.onnxruntime_coverage import coverage
from workers.runtimes.onnxruntime_session import (
    LoadedOnnxRuntime,
    disabled_optimizers,
    save_optimized_to,
    silent_options,
    take_weights_in,
)

SPEC = RUNTIMES["onnxruntime-cpu"]
PROVIDERS = ["CPUExecutionProvider"]
ORT_ENTRY = "model.ort"


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
        save_optimized_to(options, model, out, params.graph_optimization)
        with refused("building the engine with ONNX Runtime", stage="building"):
            InferenceSession(
                str(model.path), options, providers=PROVIDERS, disabled_optimizers=disabled_optimizers(model)
            )
        take_weights_in(out, model)
        facts = graph_facts(out / ENTRY)
        facts["model_half_weights"] = graph_facts(model.path)["half_weights"]
        entry = _to_ort(out, params) if params.engine_format == "ort" else ENTRY
        return Engine(out, entry, facts)

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The engine in memory, on the CPU provider alone.

        Raises:
            InvalidModel, UnsupportedOperator: this machine or version cannot load it.
        """
        return self.open(engine, params, self.options(params))

    def options(self, params: Params) -> SessionOptions:
        """How an engine is loaded."""
        assert isinstance(params, OnnxRuntimeCpuParams)
        options = _options(params)
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    def open(self, engine: Engine, params: Params, options: SessionOptions) -> LoadedOnnxRuntime:
        """As `load`, with options that may say more."""
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


def _to_ort(out: Path, params: OnnxRuntimeCpuParams) -> str:
    """Save the optimized graph in ONNX Runtime's own format in place of ONNX; its name."""
    if (out / WEIGHTS).exists():
        raise UnsupportedOperator(
            "an engine in the ort format holds at most 2 GB, and this one is larger",
            stage="building",
            param="engine_format",
            hint="use engine_format=onnx",
        )
    options = _options(params)
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(out / ORT_ENTRY)
    options.add_session_config_entry("session.save_model_format", "ORT")
    with refused("saving the engine in the ort format", stage="building"):
        InferenceSession(str(out / ENTRY), options, providers=PROVIDERS)
    (out / ENTRY).unlink()
    return ORT_ENTRY


def _options(params: OnnxRuntimeCpuParams) -> SessionOptions:
    options = silent_options()
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
