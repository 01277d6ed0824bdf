"""The passes: what each takes, gives and can be told. The work is done by the file of the same name in `workers/passes`."""

from typing import Literal, get_args

from pydantic import Field

from app.catalog.spec import Params, PassSpec, Precision

ANY_PRECISION: frozenset[Precision] = frozenset(
    {"fp32", "fp16", "bf16", "int8", "int8-dynamic", "weights-8bit", "weights-4bit", "mixed"}
)


class SimplifyParams(Params):
    """Folds constants, merges batch norms and bias additions, and removes what has no effect.

    Inputs, outputs, free dimensions and precision stay. Nodes inside `If`, `Loop` and `Scan` are kept as they are used.

    Source: onnxslim (https://github.com/inisis/OnnxSlim), which iterates constant folding, pattern fusion, dead-node
    and common-subexpression elimination, and symbolic shape inference until nothing changes.
    """

    shape_inference: bool = Field(
        default=True,
        description="Infer shapes, so that shape computations with fixed results can be folded as well.",
    )
    fuse: bool = Field(
        default=True,
        description="Merge neighbouring operators (convolution and batch norm, padding, MatMul and Add, GELU …).",
    )
    fold_limit_bytes: int = Field(
        default=1 << 20,
        ge=1,
        description="Constants that folding would make larger than this, in bytes, are left to be computed at run time.",
    )


class ToFp16Params(Params):
    """Stores weights and computes in half precision (IEEE 754 binary16): half the size.

    Whether it is faster is the runtime's matter: ONNX Runtime's CPU kernels compute most operators in fp32 and gain
    no speed, and the engine keeps the half size only where the runtime's `graph_optimization` is at most extended (at
    all, convolution weights are laid out anew in fp32). Magnitudes over 65504 do not exist in half precision; the report counts the weights that were clamped.
    An operator whose inputs half precision cannot carry belongs into `blocked_operators`.

    Source: Micikevicius et al., Mixed Precision Training, 2018 (https://arxiv.org/abs/1710.03740); the operators'
    schemas (https://onnx.ai/onnx/operators/) say which nodes can take it.
    """

    keep_io_types: bool = Field(
        default=True,
        description="Inputs and outputs stay fp32, and are cast inside. False changes the signature to float16.",
    )
    blocked_operators: tuple[str, ...] = Field(
        default=(),
        description="Operator types that stay in fp32, besides those that have no fp16 form.",
    )
    blocked_nodes: tuple[str, ...] = Field(default=(), description="Names of nodes that stay in fp32.")


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


class QuantizeStaticParams(Params):
    """Weights and activations in 8 bits, with ranges fixed by running calibration data (QDQ form).

    The fastest form for convolutional networks. The defaults, unsigned activations and signed symmetric weights,
    are the pair that ONNX Runtime fuses into integer kernels on x86; signed activations leave convolutions unfused.

    Sources: Jacob et al., 2018 (https://arxiv.org/abs/1712.05877); Krishnamoorthi, 2018, for per-channel weights
    (https://arxiv.org/abs/1806.08342); Migacz, 8-bit Inference with TensorRT, GTC 2017, for `entropy`; Wu et al.,
    2020, for `percentile` (https://arxiv.org/abs/2004.09602).
    """

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
        default=2048, ge=256, le=65536, description="Bins per tensor; for methods entropy and percentile."
    )
    samples: int | None = Field(
        default=None, ge=1, description="Calibrate with at most this many samples. Absent: all of them."
    )
    activation_type: Literal["uint8", "int8"] = Field(
        default="uint8", description="How activations are stored. int8 for processors other than x86."
    )
    weight_type: Literal["int8", "uint8"] = Field(default="int8", description="How weights are stored.")
    per_channel: bool = Field(
        default=True, description="One scale per output channel of a weight instead of one per weight."
    )
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


_SPECS = (
    PassSpec(
        name="simplify",
        version=1,
        title="Simplify the graph",
        params=SimplifyParams,
        consumes=ANY_PRECISION,
        produces=None,
        over_2gb=True,
        packages=("onnxslim", "onnx"),
    ),
    PassSpec(
        name="to-fp16",
        version=1,
        title="Convert to half precision",
        params=ToFp16Params,
        consumes=frozenset({"fp32"}),
        produces="fp16",
        over_2gb=True,
        packages=("onnx", "numpy"),
    ),
    PassSpec(
        name="quantize-dynamic",
        version=1,
        title="Quantize weights to 8 bits, activations on the fly",
        params=QuantizeDynamicParams,
        consumes=frozenset({"fp32"}),
        produces="int8-dynamic",
        over_2gb=True,
        packages=("onnxruntime", "onnx"),
    ),
    PassSpec(
        name="quantize-static",
        version=1,
        title="Quantize weights and activations to 8 bits",
        params=QuantizeStaticParams,
        consumes=frozenset({"fp32"}),
        produces="int8",
        over_2gb=True,
        inputs={"calibration": "required-or-synthetic"},
        packages=("onnxruntime", "onnx", "numpy"),
    ),
    PassSpec(
        name="quantize-weights",
        version=1,
        title="Quantize MatMul weights in blocks",
        params=QuantizeWeightsParams,
        consumes=frozenset({"fp32", "fp16"}),
        produces="weights-4bit",
        over_2gb=True,
        packages=("onnxruntime", "onnx"),
    ),
)

PASSES: dict[str, PassSpec] = {spec.name: spec for spec in _SPECS}
