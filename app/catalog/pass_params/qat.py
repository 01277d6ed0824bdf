"""Parameters of the pass `qat`."""

from typing import Literal

from pydantic import Field, model_validator

from app.catalog.pass_params.quantization import CalibratedParams, StaticOperator
from app.catalog.pass_params.training import TrainingParams


class QatParams(TrainingParams, CalibratedParams):
    """Trains the network while its weights and activations are rounded to 8 bits, and leaves the quantized network (QDQ form).

    For networks that lose too much by `quantize-static`: narrow ones, depthwise ones. It begins where that pass ends, with the
    same values in 8 bits and the same calibrated ranges, and ends with a model that runtimes fuse in the same way. Each batch
    norm is rounded as the weight that it will be folded into; its statistics, and the ranges, are frozen at `freeze_at`, so that
    the last steps train what will run. Without labels the network learns to give what it gave in floating point.

    Sources: Jacob et al., 2018 (https://arxiv.org/abs/1712.05877); Krishnamoorthi, 2018, for freezing batch norms late
    (https://arxiv.org/abs/1806.08342); Esser et al., 2020, for ranges that are learned (https://arxiv.org/abs/1902.08153);
    Mishra and Marr, Apprentice, 2018, for learning from the network in floating point (https://arxiv.org/abs/1711.05852).
    """

    freeze_at: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="The share of all steps after which statistics of batch norms and ranges of activations stay. 0: from the start.",
    )
    ranges: Literal["auto", "moving", "learned", "fixed"] = Field(
        default="auto",
        description=(
            "What the ranges of activations do until then: follow the extremes of the batches, be trained with the weights, or "
            "stay as calibration found them. `auto`: moving for method minmax, learned for those that cut extremes off."
        ),
    )
    loss: Literal["auto", "cross-entropy", "binary-cross-entropy", "mse", "l1", "smooth-l1"] = Field(
        default="auto", description="Of labels, where there are some: see `finetune`."
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="The share of each label that is spread evenly over all classes."
    )
    soft: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description=(
            "The share of the loss that compares with what the network in floating point gives, where there are labels; "
            "without labels it is all of it."
        ),
    )
    temperature: float = Field(
        default=2.0,
        gt=0,
        le=100,
        description="What scores of classes are divided by before they are compared with those in floating point.",
    )
    activation_type: Literal["uint8", "int8"] = Field(
        default="uint8", description="How activations are stored. int8 for processors other than x86."
    )
    symmetric_activations: bool = Field(
        default=False, description="Ranges of activations symmetric around zero."
    )
    operators: tuple[StaticOperator, ...] | None = Field(
        default=None,
        min_length=1,
        description="Operator types to quantize, of ONNX. Absent: as `quantize-static`.",
    )
    excluded_operators: tuple[str, ...] = Field(default=(), description="Operator types that stay in fp32.")
    excluded_nodes: tuple[str, ...] = Field(
        default=(), description="Names of nodes that stay in fp32, of the network as ONNX."
    )
    form: Literal["onnxruntime", "tensorrt"] = Field(
        default="onnxruntime", description="Whose fusions the graph is made for: see `quantize-static`."
    )
    rest: Literal["fp32", "fp16"] = Field(
        default="fp32",
        description="What everything else is computed in; fp16 for form tensorrt alone, where it is the usual choice.",
    )

    @property
    def learns_from_labels(self) -> bool:
        """Whether labels are part of the loss, where there are some."""
        return self.soft < 1

    @property
    def range_mode(self) -> Literal["moving", "learned", "fixed"]:
        """What `ranges` comes to."""
        if self.ranges == "auto":
            return "moving" if self.method == "minmax" else "learned"
        return self.ranges

    @model_validator(mode="after")
    def _rest_fits(self) -> "QatParams":
        if self.rest != "fp32" and self.form != "tensorrt":
            raise ValueError("rest is fp32 unless form is tensorrt")
        return self
