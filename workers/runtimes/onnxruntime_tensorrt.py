"""ONNX Runtime with TensorRT: the engine is an ONNX file whose nodes hold what TensorRT built. Never run: see its parameters."""

from collections.abc import Mapping
from pathlib import Path

from app.catalog.runtime_params.onnxruntime import OnnxRuntimeTensorRtParams
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from app.errors import InvalidParams
from workers.model_handle import ModelHandle
from workers.onnx_files import ENTRY
from workers.runtimes import implements
from workers.runtimes.base import Engine
from workers.runtimes.onnx_facts import graph_facts
from workers.runtimes.onnxruntime_gpu import CPU, OnnxRuntimeGpu, Provider, explained
from workers.runtimes.onnxruntime_session import silent_options

SPEC = RUNTIMES["onnxruntime-tensorrt"]


@implements(SPEC.name)
class OnnxRuntimeTensorRt(OnnxRuntimeGpu):
    """See `OnnxRuntimeGpu`."""

    spec = SPEC
    compiled = True

    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """Let TensorRT build its parts of the graph, and save them in one ONNX file.

        Facts: those of `graph_facts` of the model and `built`, and `explained`.

        Raises:
            InvalidParams: some of min, opt and max shapes are missing.
            BurnishError: as `built`.
        """
        assert isinstance(params, OnnxRuntimeTensorRtParams)
        options = silent_options()
        for name, value in {
            "ep.context_enable": "1",
            "ep.context_embed_mode": "1",
            "ep.context_file_path": str(out / ENTRY),
        }.items():
            options.add_session_config_entry(name, value)
        found = self.built(model, options, params)
        facts = graph_facts(model.path)
        return Engine(out, ENTRY, {**facts, **found, "explained": explained(found, facts)})

    def providers(self, params: Params) -> list[Provider]:
        """TensorRT with its options, then CUDA and the CPU for the nodes that it does not take. Raises InvalidParams."""
        assert isinstance(params, OnnxRuntimeTensorRtParams)
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
        return [
            ("TensorrtExecutionProvider", options),
            ("CUDAExecutionProvider", {"device_id": "0"}),
            (CPU, {}),
        ]


def _written(shapes: Mapping[str, list[int]]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
