"""ONNX Runtime on NVIDIA GPUs: the graph optimized for its CUDA provider, run with tensors bound to the GPU."""

from pathlib import Path

from app.catalog.runtime_params.onnxruntime import OnnxRuntimeCudaParams
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import Params
from workers.model_handle import ModelHandle
from workers.onnx_files import ENTRY
from workers.runtimes import implements
from workers.runtimes.base import Engine
from workers.runtimes.onnx_facts import graph_facts
from workers.runtimes.onnxruntime_gpu import CPU, OnnxRuntimeGpu, Provider, explained
from workers.runtimes.onnxruntime_session import save_optimized_to, silent_options, take_weights_in

SPEC = RUNTIMES["onnxruntime-cuda"]


@implements(SPEC.name)
class OnnxRuntimeCuda(OnnxRuntimeGpu):
    """See `OnnxRuntimeGpu`."""

    spec = SPEC
    compiled = False

    def build(self, model: ModelHandle, params: Params, out: Path) -> Engine:
        """Optimize the graph for the CUDA provider, and save it. Facts: those of `graph_facts` and `built`, and `explained`.

        Raises:
            BurnishError: as `built`.
        """
        assert isinstance(params, OnnxRuntimeCudaParams)
        options = silent_options()
        save_optimized_to(options, model, out, params.graph_optimization)
        unrecorded = params.model_copy(update={"cuda_graph": False})  # nothing is run here
        found = self.built(model, options, unrecorded)
        take_weights_in(out, model)
        facts = graph_facts(out / ENTRY)
        return Engine(out, ENTRY, {**facts, **found, "explained": explained(found, facts)})

    def providers(self, params: Params) -> list[Provider]:
        """The CUDA provider with its options, and the CPU's for the nodes that it does not take."""
        assert isinstance(params, OnnxRuntimeCudaParams)
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
