"""PyTorch in eager mode on CPUs."""

from app.catalog.runtimes import RUNTIMES
from workers.profiling.profilers import profiles
from workers.profiling.torch_eager_profile import TorchEagerProfiler
from workers.runtimes.torch_eager import TorchEager


@profiles(RUNTIMES["torch-eager"].name)
class TorchEagerCpuProfiler(TorchEagerProfiler):
    """See `TorchEagerProfiler`."""

    runtime = TorchEager()
    device = "cpu"
