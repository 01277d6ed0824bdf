"""Parameters of passes that leave OpenVINO's format."""

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from app.catalog.spec import Params


class QuantizeOpenVinoParams(Params):
    """Weights and activations in 8 bits as OpenVINO's kernels take them, with ranges from calibration data; leaves an IR.

    The fastest form for OpenVINO on CPUs, for convolutional networks and transformers. NNCF knows which nodes the
    kernels compute in 8 bits, corrects the bias that rounding brings, and smooths activations with outliers.

    With `max_drop` it measures a metric on labelled validation data, and turns nodes back to floating point, the most
    harmful first, until the drop is within the bound. Take other data than what the engine is evaluated on: the
    nodes are chosen by this data. It takes a validation per node or two, so many times as long.

    Sources: https://github.com/openvinotoolkit/nncf and https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/quantizing-models-post-training/basic-quantization-flow.html;
    Kozlov et al., 2020, for NNCF (https://arxiv.org/abs/2002.08679); Nagel et al., 2019, for bias correction
    (https://arxiv.org/abs/1906.04721); Xiao et al., 2022, for SmoothQuant (https://arxiv.org/abs/2211.10438).
    """

    preset: Literal["performance", "mixed"] | None = Field(
        default=None,
        description=(
            "performance: ranges symmetric around zero; mixed: those of activations asymmetric, which is more exact "
            "where activations are not centred (GELU, Swish). Absent: mixed for transformers, otherwise performance."
        ),
    )
    model_type: Literal["none", "transformer"] = Field(
        default="none",
        description="transformer keeps what is sensitive in attention (the softmax, some additions) in floating point.",
    )
    samples: int = Field(default=300, ge=1, description="Calibrate with at most this many samples.")
    fast_bias_correction: bool = Field(
        default=True,
        description="Correct biases from layer statistics. False: by running the network layer by layer, more exact and slow.",
    )
    smooth_quant_alpha: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description=(
            "How much of the outliers of MatMul inputs moves into the weights: 0 little, 1 all. Absent: NNCF's "
            "choice, which is 0.95, for transformers alone."
        ),
    )
    excluded_operators: tuple[str, ...] = Field(
        default=(), description="ONNX operator types that stay in floating point."
    )
    excluded_nodes: tuple[str, ...] = Field(
        default=(), description="Names of ONNX nodes that stay in floating point."
    )
    max_drop: float | None = Field(
        default=None,
        ge=0,
        description=(
            "How much of the metric may be lost on the validation data, absolute, in its own unit: 0.01 is one point of "
            "a metric in 0..1. Nodes are turned back to floating point until it is held. Absent: no bound."
        ),
    )
    metric: str | None = Field(
        default=None,
        description="What max_drop is a drop of; see `GET /v1/metrics`. Absent: top1.",
    )
    output: str | None = Field(
        default=None, description="The output that the metric reads, where the model has several."
    )
    validation_samples: int | None = Field(
        default=None, ge=1, description="Validate on at most this many samples. Absent: on all."
    )
    max_reverted: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Turn back at most this many groups of nodes that share ranges, one after another, even if max_drop is not "
            "held then. Absent: as many as it takes."
        ),
    )

    @field_validator("metric", "output", "validation_samples", "max_reverted")
    @classmethod
    def _with_a_bound(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("max_drop", 0) is None:
            raise ValueError("it counts only beside max_drop, which is absent")
        return value
