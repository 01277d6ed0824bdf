"""ONNX Runtime on CPUs."""

from app.catalog.runtimes import RUNTIMES
from workers.profiling.onnxruntime_profile import OnnxRuntimeProfiler
from workers.profiling.profilers import profiles
from workers.runtimes.onnxruntime_cpu import OnnxRuntimeCpu


@profiles(RUNTIMES["onnxruntime-cpu"].name)
class OnnxRuntimeCpuProfiler(OnnxRuntimeProfiler):
    """See `OnnxRuntimeProfiler`."""

    runtime = OnnxRuntimeCpu()
