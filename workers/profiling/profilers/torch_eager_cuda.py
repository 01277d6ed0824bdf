"""PyTorch in eager mode on NVIDIA GPUs."""

from app.catalog.runtimes import RUNTIMES
from workers.profiling.profilers import profiles
from workers.profiling.torch_eager_profile import TorchEagerProfiler
from workers.runtimes.torch_eager_cuda import TorchEagerCuda


@profiles(RUNTIMES["torch-eager-cuda"].name)
class TorchEagerCudaProfiler(TorchEagerProfiler):
    """See `TorchEagerProfiler`."""

    runtime = TorchEagerCuda()
    device = "cuda"
