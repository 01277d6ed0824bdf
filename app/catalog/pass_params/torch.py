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
