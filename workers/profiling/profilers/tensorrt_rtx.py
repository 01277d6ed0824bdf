"""TensorRT for RTX. Never run: see `tensorrt_profile`."""

from app.catalog.runtimes import RUNTIMES
from workers.profiling.profilers import profiles
from workers.profiling.tensorrt_profile import LayerProfiler
from workers.runtimes.tensorrt_rtx import TensorRtRtx


@profiles(RUNTIMES["tensorrt-rtx"].name)
class TensorRtRtxProfiler(LayerProfiler):
    """See `LayerProfiler`."""

    runtime = TensorRtRtx()
