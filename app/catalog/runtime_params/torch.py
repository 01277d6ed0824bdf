"""Parameters of PyTorch's own runtimes."""

from pydantic import Field

from app.catalog.runtime_params.gpu import GpuParams
from app.catalog.spec import Params

TF32 = (
    "Compute fp32 convolutions and products with 10 bits of mantissa on the tensor cores: several times faster, to about "
    "three digits. The baseline is computed without."
)


class TorchEagerParams(Params):
    """PyTorch as it is: operator after operator, nothing compiled. What people have today, and what engines are shown beside.

    The engine is the model itself with a file that says how to open it. Quantized layers compute in floating point here,
    as eager PyTorch has no 8-bit kernels for exported programs.

    Source: https://docs.pytorch.org/docs/stable/notes/cpu_threading_torchscript_inference.html.
    """

    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Threads that one operator may use. 0: one for each processor that the process may use.",
    )


class TorchInductorParams(Params):
    """AOTInductor on CPUs: the exported program, compiled to C++ and to calls of oneDNN, in a `.pt2` package.

    Building needs a C++ compiler (`g++`, or what `CXX` names) and takes from ten seconds to a minute; running needs torch
    alone. The code is made for this processor's instructions and for a number of threads, and both stand in the engine's
    validity: another machine, or another number of threads, should build anew. Free dimensions stay free.

    Source: https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html.
    """

    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description=(
            "Threads that the code is made for and runs with. 0: one for each processor that the process may use "
            "when the engine is built."
        ),
    )
    freezing: bool = Field(
        default=True,
        description=(
            "Fold weights into constants, packed as oneDNN wants them: faster, and needed for its 8-bit kernels. It also "
            "unpacks weights that are stored in 8 bits alone (quantize-torch with weights-8bit)."
        ),
    )
    max_autotune: bool = Field(
        default=False,
        description="Time generated matrix products against oneDNN's and take the faster: building takes minutes.",
    )


class TorchEagerCudaParams(GpuParams):
    """PyTorch as it is, on an NVIDIA GPU: kernel after kernel, nothing compiled. The reference beside engines for GPUs.

    Inputs are copied to the GPU and outputs back, which is timed too.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html.
    """

    tf32: bool = Field(default=False, description=TF32)


class TorchInductorCudaParams(GpuParams):
    """AOTInductor on an NVIDIA GPU: the exported program, compiled to Triton and CUDA kernels, in a `.pt2` package.

    Offered by workers that have a GPU and a PyTorch for it. Inputs are copied to the GPU and outputs back, which is timed too.
    Its self-test passed on an H200; a network has not yet been compiled there by its makers, who had no PyTorch 2.13 for it.

    Source: https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html.
    """

    tf32: bool = Field(default=False, description=TF32)
    freezing: bool = Field(
        default=True, description="Fold weights into constants: faster, and they cannot be changed any more."
    )
    max_autotune: bool = Field(
        default=False,
        description="Time several forms of every matrix product and convolution: building takes minutes.",
    )
