"""AOTInductor on CPUs."""

from app.catalog.runtimes import RUNTIMES
from workers.profiling.profilers import profiles
from workers.profiling.torch_inductor_profile import TorchInductorProfiler
from workers.runtimes.torch_inductor_cpu import TorchInductorCpu


@profiles(RUNTIMES["torch-inductor-cpu"].name)
class TorchInductorCpuProfiler(TorchInductorProfiler):
    """See `TorchInductorProfiler`."""

    runtime = TorchInductorCpu()
    device = "cpu"
