"""Parameters of XLA."""

from typing import Literal

from pydantic import Field

from app.catalog.spec import Params


class XlaCpuParams(Params):
    """XLA on CPUs: the exported program as StableHLO, serialized by `jax.export`, with its weights beside it in safetensors.

    The engine needs JAX and numpy, no PyTorch. XLA compiles it where it is loaded, for fixed shapes: with free dimensions
    anew for each shape that comes, which takes seconds. Transformers and recurrent networks run faster than in eager
    PyTorch; convolutions do not, as XLA has plain kernels for them on CPUs.

    Source: https://docs.jax.dev/en/latest/export/export.html and https://openxla.org/stablehlo.
    """

    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Threads that XLA computes with. 0: one for each processor that the process may use.",
    )


class XlaTpuParams(Params):
    """XLA on Google's TPUs: the same StableHLO, lowered for a TPU and for CPUs at once, on a machine that needs no TPU.

    The very program that a TPU compiles is run on XLA's CPU when it is built, and held against the model. That it compiles
    and computes on a TPU was never tried by its makers, who had none: such an engine is `unverified`, and leaves only where
    `allow_unmeasured` is set. It needs `jax[tpu]`.

    Source: https://docs.jax.dev/en/latest/export/export.html#cross-platform-and-multi-platform-export.
    """

    matmul_precision: Literal["highest", "high", "default"] = Field(
        default="highest",
        description=(
            "How fp32 is multiplied, which TPUs do in passes of bf16. highest: in six, to fp32's precision. high: in three. "
            "default: in one, the fastest, to about three digits. The baseline is computed with highest."
        ),
    )
