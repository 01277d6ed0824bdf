"""Parameters of the passes that quantize."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from app.catalog.spec import Params


class QuantizeDynamicParams(Params):
    """Stores weights in 8 bits; the range of each activation is taken anew on every call. Needs no data.

    Good for transformers and other MatMul-dominated networks. Convolutions are left out by default: their dynamic
    form (`ConvInteger`) has no fast kernel in ONNX Runtime and makes convolutional networks 3.5 to 8 times slower.

    Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html; integer arithmetic by
    Jacob et al., 2018 (https://arxiv.org/abs/1712.05877).
    """

    weight_type: Literal["int8", "uint8"] = Field(
        default="int8",
        description="How weights are stored: int8 is symmetric around zero, uint8 has a zero point.",
    )
    per_channel: bool = Field(
        default=True, description="One scale per output channel of a weight instead of one per weight."
    )
    reduce_range: bool = Field(
        default=False,
        description="Weights in 7 bits, against saturation on x86 processors without VNNI instructions.",
    )
    operators: tuple[Literal["MatMul", "Gemm", "Attention", "LSTM", "Conv", "Gather"], ...] = Field(
        default=("MatMul", "Gemm", "Attention", "LSTM"),
        min_length=1,
        description="Operator types to quantize. Conv is possible, and slow.",
    )
    excluded_nodes: tuple[str, ...] = Field(default=(), description="Names of nodes that stay in fp32.")


StaticOperator = Literal[
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool",
    "AveragePool", "GlobalAveragePool", "Concat", "Split", "Resize", "Pad", "Reshape", "Transpose", "Squeeze",
    "Unsqueeze", "Flatten", "Gather", "Softmax", "Slice", "Where",
]  # fmt: skip


FUSED_OPERATORS = tuple(kind for kind in get_args(StaticOperator) if kind not in ("ConvTranspose", "Softmax"))


class CalibratedParams(Params):
    """What passes with ranges from calibration data share."""

    method: Literal["minmax", "entropy", "percentile"] = Field(
        default="minmax",
        description=(
            "How a tensor's range follows from what calibration saw: its extremes; the cut with the least "
            "Kullback-Leibler divergence; or the range that holds `percentile` percent of the values."
        ),
    )
    percentile: float = Field(
        default=99.99,
        gt=50,
        le=100,
        description="The share of values, in percent, that the range holds; for method percentile.",
    )
    histogram_bins: int = Field(
        default=2048, ge=256, le=65536, description="Bins per tensor; for methods that count values."
    )
    samples: int | None = Field(
        default=None, ge=1, description="Calibrate with at most this many samples. Absent: all of them."
    )
    per_channel: bool = Field(
        default=True, description="One scale per output channel of a weight instead of one per weight."
    )


class QuantizeStaticParams(CalibratedParams):
    """Weights and activations in 8 bits, with ranges fixed by running calibration data (QDQ form).

    The fastest form for convolutional networks. The defaults, unsigned activations and signed symmetric weights,
    are the pair that ONNX Runtime fuses into integer kernels on x86; signed activations leave convolutions unfused.
    What makes attention scores a Softmax's input, as the sum with a mask, stays in fp32: over a range to -10,000 or the
    lowest float, 8 bits would leave the scores no level.

    Sources: Jacob et al., 2018 (https://arxiv.org/abs/1712.05877); Krishnamoorthi, 2018, for per-channel weights
    (https://arxiv.org/abs/1806.08342); Migacz, 8-bit Inference with TensorRT, GTC 2017, for `entropy`; Wu et al.,
    2020, for `percentile` (https://arxiv.org/abs/2004.09602); Nagel et al., 2019, for `correct_bias`
    (https://arxiv.org/abs/1906.04721).
    """

    activation_type: Literal["uint8", "int8"] = Field(
        default="uint8", description="How activations are stored. int8 for processors other than x86."
    )
    weight_type: Literal["int8", "uint8"] = Field(default="int8", description="How weights are stored.")
    symmetric_activations: bool = Field(
        default=False, description="Ranges of activations symmetric around zero."
    )
    symmetric_weights: bool = Field(default=True, description="Ranges of weights symmetric around zero.")
    reduce_range: bool = Field(
        default=False,
        description="Weights in 7 bits, against saturation on x86 processors without VNNI instructions.",
    )
    operators: tuple[StaticOperator, ...] | None = Field(
        default=None,
        min_length=1,
        description="Operator types to quantize. Absent: all but ConvTranspose (no 8-bit kernel) and Softmax (inexact).",
    )
    excluded_operators: tuple[str, ...] = Field(default=(), description="Operator types that stay in fp32.")
    excluded_nodes: tuple[str, ...] = Field(default=(), description="Names of nodes that stay in fp32.")
    correct_bias: bool = Field(
        default=False,
        description=(
            "Take the mean error that is left in each convolution's and Gemm's outputs on calibration data out of its "
            "bias, layer by layer. For coarse weights (one scale a tensor, depthwise layers); takes a run of the "
            "model over `correction_samples` per layer."
        ),
    )
    correction_samples: int = Field(
        default=64, ge=1, description="Samples that biases are corrected on, at most; for `correct_bias`."
    )
    form: Literal["onnxruntime", "tensorrt"] = Field(
        default="onnxruntime",
        description=(
            "Whose fusions the graph is made for. tensorrt: signed symmetric types whatever the fields above say, Q/DQ before "
            "convolutions and products with a constant weight and on the other side of a residual addition, biases in "
            "floating point."
        ),
    )
    rest: Literal["fp32", "fp16"] = Field(
        default="fp32",
        description="What everything else is computed in; fp16 for form tensorrt alone, where it is the usual choice.",
    )

    @model_validator(mode="after")
    def _rest_fits(self) -> "QuantizeStaticParams":
        if self.rest != "fp32" and self.form != "tensorrt":
            raise ValueError("rest is fp32 unless form is tensorrt")
        if self.correct_bias and self.form == "tensorrt":
            raise ValueError("correct_bias corrects the 32-bit biases of form onnxruntime alone")
        return self


class QuantizeFp8Params(CalibratedParams):
    """Weights and activations in 8-bit floating point (E4M3), with a scale an activation and a scale a channel of a weight.

    For TensorRT on GPUs from compute capability 8.9 (Ada, Hopper, Blackwell). Keeps more of what lies far out than 8-bit
    integers do, so transformers lose less. ONNX Runtime and OpenVINO on CPUs compute the same numbers in floating point, without
    gain in speed.

    Sources: Micikevicius et al., FP8 Formats for Deep Learning, 2022 (https://arxiv.org/abs/2209.05433); for where Q/DQ go
    https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html.
    """

    method: Literal["minmax", "percentile"] = Field(
        default="minmax",
        description="An activation's range: the extremes that calibration saw, or `percentile` percent of its values.",
    )
    operators: tuple[Literal["Conv", "ConvTranspose", "Gemm", "MatMul", "Add"], ...] = Field(
        default=("Conv", "Gemm", "MatMul", "Add"),
        min_length=1,
        description="Operator types to quantize: those with a constant weight, and residual additions to a convolution.",
    )
    excluded_nodes: tuple[str, ...] = Field(default=(), description="Names of nodes that stay as they are.")
    rest: Literal["fp32", "fp16"] = Field(
        default="fp32", description="What everything else is computed in; fp16 is the usual choice on GPUs."
    )


class QuantizeWeightsParams(Params):
    """Stores the constant weights of MatMul and Gemm in blocks of 4 or 8 bits; activations stay in floating point.

    Made for large transformers, whose speed is bound by reading weights. Each block of `block_size` weights along the
    input dimension has its own scale. Rounding is to nearest (no data needed).

    Source: ONNX Runtime's MatMulNBits operator (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md);
    Dettmers and Zettlemoyer, The case for 4-bit precision, 2023 (https://arxiv.org/abs/2212.09720).
    """

    bits: Literal[4, 8] = Field(default=4, description="Bits per weight.")
    block_size: Literal[16, 32, 64, 128, 256] = Field(default=32, description="Weights that share a scale.")
    symmetric: bool = Field(default=False, description="No zero points: smaller, a little less exact.")
    accuracy_level: Literal[0, 1, 2, 3, 4] = Field(
        default=0,
        description=(
            "The least precision to compute with: 0 the runtime's choice, 1 fp32, 2 fp16, 3 bf16, 4 int8 "
            "(activations are quantized by block; the fastest on CPUs)."
        ),
    )
    minimum_weights: int = Field(
        default=1024, ge=0, description="Smaller weights than this many elements stay as they are."
    )
    excluded_nodes: tuple[str, ...] = Field(default=(), description="Names of nodes that stay as they are.")
