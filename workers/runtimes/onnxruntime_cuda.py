"""ONNX Runtime on NVIDIA GPUs: the graph optimized for its CUDA provider, run with tensors bound to the GPU."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime import GraphOptimizationLevel

from app.catalog.runtime_params.onnxruntime import OnnxRuntimeCudaParams
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from workers.distributions import versions_of
from workers.gpu import compute_capability
from workers.model_handle import ModelHandle
from workers.onnx_files import ENTRY
from workers.runtimes import conditions, implements
from workers.runtimes.base import Coverage, Engine, LoadedEngine
from workers.runtimes.onnx_facts import graph_facts
from workers.runtimes.onnxruntime_coverage import coverage
from workers.runtimes.onnxruntime_gpu import (
    CPU,
    RECORD,
    BoundOnnxRuntime,
    Provider,
    check_placement,
    explained,
    gpu_session,
    placement,
)
from workers.runtimes.onnxruntime_session import save_optimized_to, silent_options

SPEC = RUNTIMES["onnxruntime-cuda"]


@implements(SPEC.name)
class OnnxRuntimeCuda:
    """See `base.Runtime`."""

    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """Optimize the graph for the CUDA provider, and save it with its facts.

        Facts: those of `graph_facts` and `placement`, `compute_capability` of the GPU, and `explained`.

        Raises:
            Unavailable: there is no GPU or no CUDA provider here.
            UnsupportedOperator, InvalidModel: ONNX Runtime refuses the model, or nodes would run on the CPU and may not.
        """
        assert isinstance(params, OnnxRuntimeCudaParams)
        capability = compute_capability()
        options = silent_options()
        options.add_session_config_entry(RECORD, "1")
        save_optimized_to(options, model, out, params.graph_optimization)
        plain = params.model_copy(
            update={"cuda_graph": False}
        )  # nothing is run here, so nothing can be recorded
        found = placement(gpu_session(model.path, options, providers(plain), "building"))
        check_placement(found, refuse=params.cpu_nodes == "refuse")
        facts = graph_facts(out / ENTRY)
        told = {
            "hardware_layout": False,
            "compute_capability": capability,
            "explained": explained(found, facts),
        }
        return Engine(out, ENTRY, {**facts, **found, **told})

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The engine in memory of the GPU. Raises as `gpu_session`, and InvalidParams as `BoundOnnxRuntime`."""
        assert isinstance(params, OnnxRuntimeCudaParams)
        options = silent_options()
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        session = gpu_session(engine.path, options, providers(params), "loading")
        return BoundOnnxRuntime(session, fixed=params.cuda_graph)

    def validity(self, engine: Engine, params: Params) -> dict[str, Any]:
        """Where the engine is valid: {runtime, version, device, architecture, cpu_features, compute_capability, conditions, inputs}."""
        return {
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "device": SPEC.device,
            "architecture": platform.machine(),
            "cpu_features": [],
            "compute_capability": engine.facts["compute_capability"],
            "conditions": conditions.listed(
                conditions.onnxruntime_gpu(
                    onnxruntime.__version__, engine.facts["compute_capability"], compiled=False
                )
            ),
            "inputs": self.load(engine, params).inputs,
        }

    def coverage(self, model: ModelHandle) -> Coverage:
        """What ONNX Runtime runs at all: nodes without a kernel on the GPU run on the CPU."""
        return coverage(model)

    def versions(self) -> Mapping[str, str]:
        """Distributions that matter for results."""
        return versions_of(SPEC.packages)


def providers(params: OnnxRuntimeCudaParams) -> list[Provider]:
    """The CUDA provider with its options, and the CPU's for the nodes that it does not take."""
    options = {
        "device_id": "0",
        "use_tf32": str(int(params.tf32)),
        "enable_cuda_graph": str(int(params.cuda_graph)),
        "cudnn_conv_algo_search": params.conv_algorithms.upper(),
        "prefer_nhwc": str(int(params.prefer_nhwc)),
    }
    if params.gpu_memory_limit_bytes:
        options["gpu_mem_limit"] = str(params.gpu_memory_limit_bytes)
    return [("CUDAExecutionProvider", options), (CPU, {})]
