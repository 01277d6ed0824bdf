"""Parameters of the passes that work on PyTorch programs."""

from typing import Literal

from pydantic import Field

from app.catalog.spec import Params


class QuantizeTorchParams(Params):
    """Quantizes an exported PyTorch program with torchao, for the target torch-inductor-cpu.

    `int8-static` fixes the ranges of activations by running calibration data, and is the form for convolutions;
    `int8-dynamic` takes them anew on every call, needs no data, and quantizes linear layers alone. Both are written as
    quantize and dequantize operators (PT2E), which Inductor fuses into oneDNN's 8-bit kernels with `freezing`; eager
    PyTorch computes them in floating point. `weights-8bit` stores the weights of linear layers in 8 bits and leaves
    activations as they are: the model is smaller, not faster, and smaller as an engine only without `freezing`. Convolutions
    of a single input channel stay in floating point: Inductor computes them wrongly in 8 bits.

    Source: https://docs.pytorch.org/ao/stable/pt2e_quantization/pt2e_quant_x86_inductor.html; Jacob et al., 2018
    (https://arxiv.org/abs/1712.05877).
    """

    mode: Literal["int8-dynamic", "int8-static", "weights-8bit"] = Field(
        default="int8-static",
        description=(
            "What is quantized: weights and activations by fixed ranges (needs calibration data), weights and activations "
            "by ranges taken on every call, or weights alone."
        ),
    )
    reduce_range: bool = Field(
        default=False,
        description="Activations in 7 bits, against saturation on x86 processors without VNNI instructions; for int8 modes.",
    )
    samples: int | None = Field(
        default=None, ge=1, description="Calibrate with at most this many samples. Absent: all of them."
    )


class CastTorchParams(Params):
    """Casts an exported PyTorch program to half precision: weights and arithmetic; inputs and outputs stay as they were.

    For targets whose hardware computes in it: GPUs from compute capability 7.0 (fp16) and 8.0 (bf16) on tensor cores, CPUs
    with bf16 instructions. Elsewhere it is slower than fp32. PyTorch's kernels accumulate in fp32. fp16 keeps three digits
    up to 65504; bf16 two and a half, with the range of fp32.

    Source: Micikevicius et al., Mixed Precision Training, 2018 (https://arxiv.org/abs/1710.03740); Kalamkar et al., A Study
    of BFLOAT16 for Deep Learning Training, 2019 (https://arxiv.org/abs/1905.12322).
    """

    dtype: Literal["fp16", "bf16"] = Field(
        default="fp16", description="The type: fp16 is more exact, bf16 cannot overflow."
    )
