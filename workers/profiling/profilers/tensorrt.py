"""TensorRT. Never run: see `tensorrt_profile`."""

from app.catalog.runtimes import RUNTIMES
from workers.profiling.profilers import profiles
from workers.profiling.tensorrt_profile import LayerProfiler
from workers.runtimes.tensorrt import TensorRt


@profiles(RUNTIMES["tensorrt"].name)
class TensorRtProfiler(LayerProfiler):
    """See `LayerProfiler`."""

    runtime = TensorRt()
