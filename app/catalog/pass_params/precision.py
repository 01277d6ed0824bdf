"""Parameters of the passes that change the floating-point type."""

from typing import Literal

from pydantic import Field

from app.catalog.spec import Params


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


class ToBf16Params(Params):
    """Stores weights as bfloat16, half the size, and computes in fp32: each weight is widened where it is read. Or, with
    `compute` bf16, computes in bfloat16 as well, for runtimes that take precision from the model (TensorRT).

    Exact but for the rounding of weights to 8 significant bits (0.4% at most), and with the range of fp32, so nothing
    overflows. On CPUs this makes the ONNX model half as large, not the engine: ONNX Runtime has no bf16 kernels there
    (only Cast, LayerNormalization and what moves data), and it and OpenVINO fold the widening away while they build; ONNX
    Runtime's engine keeps the half size with `graph_optimization` none alone. To compute in bf16 on a CPU that can, set
    OpenVINO's `inference_precision`: it needs no pass.
    Put it last in a recipe: `simplify` folds small weights back.

    Source: Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, 2019 (https://arxiv.org/abs/1905.12322).
    """

    compute: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description=(
            "What is computed in. bf16: every node that can, with inputs and outputs in fp32; ONNX Runtime on CPU does not "
            "run such a model."
        ),
    )
    blocked_operators: tuple[str, ...] = Field(
        default=(), description="Operator types that stay in fp32; for `compute` bf16."
    )
    minimum_weights: int = Field(
        default=256,
        ge=0,
        description=(
            "Smaller weights than this many elements stay in fp32: biases, norms, constants of operators. For `compute` fp32."
        ),
    )
    excluded_weights: tuple[str, ...] = Field(
        default=(), description="Names of weights that stay in fp32; for `compute` fp32."
    )
