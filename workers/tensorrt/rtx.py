"""What TensorRT for RTX alone has: GPUs that an engine is for, and how it finishes its kernels when it runs."""

from typing import Any

from app.catalog.runtime_params.tensorrt import TensorRtRtxParams
from workers.tensorrt.library import Library


def set_capabilities(library: Library, config: Any, params: TensorRtRtxParams) -> None:
    """Name the GPUs that the engine is for; where none is named, the library serves all that it knows."""
    trt = library.trt
    if not params.compute_capabilities:
        return
    config.num_compute_capabilities = len(params.compute_capabilities)
    for index, capability in enumerate(params.compute_capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), index)


def execution_context(library: Library, engine: Any, params: TensorRtRtxParams) -> Any:
    """A context of an engine, which records its work in a CUDA graph by itself where that is asked for."""
    trt = library.trt
    runtime_config = engine.create_runtime_config()
    strategies = trt.CudaGraphStrategy
    runtime_config.cuda_graph_strategy = (
        strategies.WHOLE_GRAPH_CAPTURE if params.cuda_graphs else strategies.DISABLED
    )
    kernels = trt.DynamicShapesKernelSpecializationStrategy
    runtime_config.dynamic_shapes_kernel_specialization_strategy = {
        "lazy": kernels.LAZY,
        "eager": kernels.EAGER,
        "none": kernels.NONE,
    }[params.kernel_specialization]
    return engine.create_execution_context(runtime_config)
