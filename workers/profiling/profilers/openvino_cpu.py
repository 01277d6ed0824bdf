"""OpenVINO on CPUs."""

from app.catalog.runtimes import RUNTIMES
from workers.profiling.openvino_profile import OpenVinoProfiler
from workers.profiling.profilers import profiles
from workers.runtimes.openvino_cpu import OpenVinoCpu


@profiles(RUNTIMES["openvino-cpu"].name)
class OpenVinoCpuProfiler(OpenVinoProfiler):
    """See `OpenVinoProfiler`."""

    runtime = OpenVinoCpu()
