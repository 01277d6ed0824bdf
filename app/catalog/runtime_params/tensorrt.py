"""Parameters of TensorRT and of TensorRT for RTX."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from app.catalog.runtime_params.gpu import GpuParams
from app.catalog.spec import Params

Dims = Annotated[tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...], Field(max_length=8)]
ComputeCapability = Literal[75, 80, 86, 89, 120, 121]
CAPABILITIES = get_args(ComputeCapability)


class ShapeRange(Params):
    """The shapes that an input may have under a profile: each dimension of `opt` lies between those of `min` and `max`."""

    min: Dims = Field(description="The smallest shape.")
    opt: Dims = Field(description="The shape that kernels are chosen for.")
    max: Dims = Field(description="The largest shape.")

    @model_validator(mode="after")
    def _ordered(self) -> "ShapeRange":
        ranks = {len(self.min), len(self.opt), len(self.max)}
        if len(ranks) != 1:
            raise ValueError(
                f"min, opt and max have {len(self.min)}, {len(self.opt)} and {len(self.max)} dimensions"
            )
        for index, (low, best, high) in enumerate(zip(self.min, self.opt, self.max, strict=True)):
            if not low <= best <= high:
                raise ValueError(
                    f"dimension {index} has min {low}, opt {best}, max {high}: they must not decrease"
                )
        return self


class Profile(Params):
    """Shapes of inputs with free dimensions that belong together. Inputs that are left out take the default range."""

    inputs: dict[str, ShapeRange] = Field(description="By the input's name: the shapes that it may have.")


class _EngineParams(Params):
    """What both libraries take."""

    profiles: tuple[Profile, ...] = Field(
        default=(),
        max_length=16,
        description=(
            "Ranges of shapes that the engine takes, each with kernels of its own: the smallest that fits is used. Absent: "
            "one, with free batches of 1 to `max_batch` and other free dimensions of 1 to `max_length`."
        ),
    )
    max_batch: int = Field(
        default=32, ge=1, description="The largest first dimension of an input, where no profile says."
    )
    max_length: int = Field(
        default=512, ge=1, description="The largest other free dimension, where no profile says."
    )
    workspace_mib: int | None = Field(
        default=None,
        ge=1,
        description="The most memory that a kernel may borrow, in MiB. Absent: all that the GPU has.",
    )
    optimization_level: int = Field(
        default=3, ge=0, le=5, description="How long kernels are searched for: 5 takes longest."
    )
    tf32: bool = Field(
        default=False,
        description=(
            "Compute fp32 products in TF32, with 10 bits of mantissa: faster. NVIDIA's own default is true; the baseline "
            "is always without."
        ),
    )
    sparse_weights: bool = Field(
        default=False,
        description=(
            "Let the builder take kernels for sparse tensor cores where weights are 2:4 sparse, as `prune-weights` with n=2, m=4 "
            "leaves them; GPUs from Ampere on."
        ),
    )
    refit: bool = Field(
        default=False,
        description="Weights can be exchanged in the built engine. Needs a GPU when it is built.",
    )
    strip: bool = Field(
        default=False,
        description=(
            "Leave the weights out of the engine; they come from the ONNX model beside it when it is loaded. Needs a GPU "
            "when it is built."
        ),
    )
    weight_streaming: bool = Field(
        default=False, description="Weights may stay in the host's memory and be fetched as they are needed."
    )
    weight_streaming_mib: int | None = Field(
        default=None,
        ge=0,
        description="Memory of the GPU that streamed weights may take, in MiB. Absent: what the library proposes.",
    )
    cuda_graphs: bool = Field(
        default=True,
        description=(
            "Record the work of a run once a shape and launch it as a whole: faster for small networks, whose launches take "
            "longer than their kernels."
        ),
    )


class TensorRtParams(_EngineParams, GpuParams):
    """TensorRT 10 or 11, for the GPU of the machine that builds. The engine is a plan for that GPU and version.

    Networks are strongly typed: what is computed in which precision stands in the ONNX model (`to-fp16`, `to-bf16` with
    `compute` bf16, `quantize-static` with `form` tensorrt, `quantize-fp8`). This runtime has never been run by its makers,
    who had no machine with that library: it is the code of tensorrt-rtx, given the other library of the same API.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html.
    """

    timing_cache: bool = Field(
        default=True,
        description=(
            "Keep what was timed for layers, within a build and for the project's later builds by the same version for the same GPU, "
            "so that equal layers are timed once. A job with `no_cache` takes nothing of others."
        ),
    )
    version_compatible: bool = Field(
        default=False, description="The engine also loads in later versions of the same major version."
    )
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = Field(
        default="none",
        description=(
            "Other GPUs that the engine runs on: none, all from Ampere on, or those of the same compute capability. "
            "Costs speed."
        ),
    )


class TensorRtRtxParams(_EngineParams):
    """TensorRT for RTX: engines for the GPUs of workstations, built ahead of time, also where there is no GPU.

    The engine holds kernels that are finished on the GPU when it is first loaded there. `compute_capabilities` says for
    which GPUs; short form of a target: `tensorrt-rtx:sm89`, or `tensorrt-rtx:sm86+sm89` for one engine that serves both.
    An engine that cannot run where it is built leaves unverified, which `options.allow_unmeasured` must allow. Precision
    stands in the ONNX model, as for `tensorrt`.

    Source: https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/index.html.
    """

    compute_capabilities: tuple[ComputeCapability, ...] = Field(
        default=(),
        max_length=len(CAPABILITIES),
        description="GPUs that the engine is for: 89 is compute capability 8.9. Absent: every GPU that the library serves.",
    )
    kernel_specialization: Literal["lazy", "eager", "none"] = Field(
        default="lazy",
        description=(
            "Kernels for the very shapes of a run, with free dimensions: made in the background, made before the first run "
            "goes on, or not at all."
        ),
    )

    @model_validator(mode="after")
    def _once(self) -> "TensorRtRtxParams":
        if len(set(self.compute_capabilities)) != len(self.compute_capabilities):
            raise ValueError("a compute capability is named twice")
        return self
