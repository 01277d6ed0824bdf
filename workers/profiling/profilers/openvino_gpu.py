"""OpenVINO on Intel GPUs, by the code of `openvino_profile`. Its makers had no such device: never run on one."""

from app.catalog.runtimes import RUNTIMES
from workers.profiling.openvino_profile import OpenVinoProfiler
from workers.profiling.profilers import profiles
from workers.runtimes.openvino_gpu import OpenVinoGpu


@profiles(RUNTIMES["openvino-gpu"].name)
class OpenVinoGpuProfiler(OpenVinoProfiler):
    """See `OpenVinoProfiler`."""

    runtime = OpenVinoGpu()
