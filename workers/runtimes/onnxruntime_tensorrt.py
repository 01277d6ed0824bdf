"""ONNX Runtime with TensorRT: the engine is an ONNX file whose nodes hold what TensorRT built. Never run: see its parameters."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime import GraphOptimizationLevel

from app.catalog.runtime_params.onnxruntime import OnnxRuntimeTensorRtParams
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from app.errors import InvalidParams
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
from workers.runtimes.onnxruntime_session import silent_options

SPEC = RUNTIMES["onnxruntime-tensorrt"]
TENSORRT = "TensorrtExecutionProvider"


@implements(SPEC.name)
class OnnxRuntimeTensorRt:
    """See `base.Runtime`."""

    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """Let TensorRT build its parts of the graph, and save them in one ONNX file.

        Facts: those of `graph_facts` of the model and `placement`, `compute_capability`, and `explained`.

        Raises:
            InvalidParams: some of min, opt and max shapes are missing.
            Unavailable: there is no GPU, or TensorRT is not installed here.
            UnsupportedOperator, InvalidModel: it refuses the model, or nodes would run on the CPU and may not.
        """
        assert isinstance(params, OnnxRuntimeTensorRtParams)
        capability = compute_capability()
        options = silent_options()
        for name, value in {
            RECORD: "1",
            "ep.context_enable": "1",
            "ep.context_embed_mode": "1",
            "ep.context_file_path": str(out / ENTRY),
        }.items():
            options.add_session_config_entry(name, value)
        found = placement(gpu_session(model.path, options, providers(params), "building"))
        check_placement(found, refuse=params.cpu_nodes == "refuse")
        facts = graph_facts(model.path)
        told = {
            "hardware_layout": False,
            "compute_capability": capability,
            "explained": explained(found, facts),
        }
        return Engine(out, ENTRY, {**facts, **found, **told})

    def load(self, engine: Engine, params: Params) -> LoadedEngine:
        """The engine in memory of the GPU. Raises as `gpu_session`, and InvalidParams as `BoundOnnxRuntime`."""
        assert isinstance(params, OnnxRuntimeTensorRtParams)
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
                    onnxruntime.__version__, engine.facts["compute_capability"], compiled=True
                )
            ),
            "inputs": self.load(engine, params).inputs,
        }

    def coverage(self, model: ModelHandle) -> Coverage:
        """What ONNX Runtime runs at all: what TensorRT does not take runs on CUDA or the CPU."""
        return coverage(model)

    def versions(self) -> Mapping[str, str]:
        """Distributions that matter for results."""
        return versions_of(SPEC.packages)


def providers(params: OnnxRuntimeTensorRtParams) -> list[Provider]:
    """TensorRT with its options, then CUDA and the CPU for the nodes that it does not take. Raises InvalidParams."""
    options = {
        "device_id": "0",
        "trt_max_workspace_size": str(params.workspace_bytes),
        "trt_builder_optimization_level": str(params.optimization_level),
        "trt_cuda_graph_enable": str(int(params.cuda_graph)),
    }
    shapes = {"min": params.min_shapes, "opt": params.opt_shapes, "max": params.max_shapes}
    if any(shapes.values()):
        if len({frozenset(by_input) for by_input in shapes.values()}) > 1:
            raise InvalidParams(
                "min_shapes, opt_shapes and max_shapes name different inputs",
                param="min_shapes",
                hint="give all three for the same inputs",
            )
        options |= {f"trt_profile_{kind}_shapes": _written(by_input) for kind, by_input in shapes.items()}
    return [(TENSORRT, options), ("CUDAExecutionProvider", {"device_id": "0"}), (CPU, {})]


def _written(shapes: Mapping[str, list[int]]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
