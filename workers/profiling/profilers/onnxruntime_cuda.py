"""ONNX Runtime on NVIDIA GPUs."""

from app.catalog.runtimes import RUNTIMES
from workers.profiling.onnxruntime_gpu_profile import OnnxRuntimeGpuProfiler
from workers.profiling.profilers import profiles
from workers.runtimes.onnxruntime_cuda import OnnxRuntimeCuda


@profiles(RUNTIMES["onnxruntime-cuda"].name)
class OnnxRuntimeCudaProfiler(OnnxRuntimeGpuProfiler):
    """See `OnnxRuntimeGpuProfiler`."""

    runtime = OnnxRuntimeCuda()
