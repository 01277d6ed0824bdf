"""ONNX Runtime with TensorRT: a part of the graph that TensorRT took is one row."""

from app.catalog.runtimes import RUNTIMES
from workers.profiling.onnxruntime_gpu_profile import OnnxRuntimeGpuProfiler
from workers.profiling.profilers import profiles
from workers.runtimes.onnxruntime_tensorrt import OnnxRuntimeTensorRt


@profiles(RUNTIMES["onnxruntime-tensorrt"].name)
class OnnxRuntimeTensorRtProfiler(OnnxRuntimeGpuProfiler):
    """See `OnnxRuntimeGpuProfiler`."""

    runtime = OnnxRuntimeTensorRt()
