"""AOTInductor on NVIDIA GPUs."""

from app.catalog.runtimes import RUNTIMES
from workers.profiling.profilers import profiles
from workers.profiling.torch_inductor_profile import TorchInductorProfiler
from workers.runtimes.torch_inductor_cuda import TorchInductorCuda


@profiles(RUNTIMES["torch-inductor-cuda"].name)
class TorchInductorCudaProfiler(TorchInductorProfiler):
    """See `TorchInductorProfiler`."""

    runtime = TorchInductorCuda()
    device = "cuda"
