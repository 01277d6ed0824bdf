"""OpenVINO on Intel NPUs, by the code of `openvino_profile`. Its makers had no such device: never run on one."""

from app.catalog.runtimes import RUNTIMES
from workers.profiling.openvino_profile import OpenVinoProfiler
from workers.profiling.profilers import profiles
from workers.runtimes.openvino_npu import OpenVinoNpu


@profiles(RUNTIMES["openvino-npu"].name)
class OpenVinoNpuProfiler(OpenVinoProfiler):
    """See `OpenVinoProfiler`."""

    runtime = OpenVinoNpu()
    accumulates = False
