"""Parameters of the pass `distill`."""

from typing import Annotated, Literal

from pydantic import Field

from app.catalog.pass_params.training import TrainingParams
from app.catalog.spec import Params

Name = Annotated[str, Field(min_length=1, max_length=500)]


class FeaturePair(Params):
    """A layer of the student that learns to give what a layer of the teacher gives."""

    student: Name = Field(description="A layer of the student by its name, as `features.stage3.unit1.conv2`.")
    teacher: Name = Field(description="A layer of the teacher by its name.")


class DistillParams(TrainingParams):
    """Trains the network to answer as another one does: the job's own model, or the `teacher` that the recipe names (a model, or
    what a job left). So a pruned network learns what it lost, or a small one what a large one knows. Labels are not needed.

    The loss is `(1 - hard_weight) * soft + hard_weight * hard + feature_weight * features`. `soft` compares the outputs that both
    networks have by name; `hard` is the loss against the labels, where there are some; `features` compares layers within. The
    teacher computes in its own precision, and learns nothing.

    With a `student` of the package pytorchcv the original's layers are left behind, its inputs and outputs stay. Its weights begin
    at random. On images so small that fewer than 4 rows or columns would be left before the last pooling, its first layers
    keep the size that they would else halve, as networks for CIFAR do.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015 (https://arxiv.org/abs/1503.02531); Romero et al.,
    FitNets, 2015 (https://arxiv.org/abs/1412.6550).
    """

    student: str | None = Field(
        default=None,
        max_length=1000,
        description="The network that learns, by its name in pytorchcv: `mobilenetv2_w1`, `efficientnet_b0`, `shufflenetv2_wd2`. "
        "Absent: the network as the recipe has it so far.",
    )
    temperature: float = Field(
        default=4.0,
        gt=0,
        le=1000,
        description="Scores of classes are divided by it before they become shares: the higher, the more small ones count.",
    )
    hard_weight: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="The share of the labels in the loss. Without labels the teacher has it all.",
    )
    feature_weight: float = Field(
        default=0.0,
        ge=0,
        le=10_000,
        description="The weight of the difference between layers within, relative to the teacher's values. 0: none are compared.",
    )
    features: list[FeaturePair] = Field(
        default_factory=list,
        max_length=100,
        description="The layers to compare where `feature_weight` is above 0. Empty: those of one name and shape at the end of each "
        "size of image, else the last ones of equal size; in transformers, the norms. Where channels differ, a projection is learned "
        "beside the network and thrown away.",
    )
    outputs: list[Name] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="The outputs that the teacher teaches. Absent: all floating-point ones that both networks have.",
    )
    soft_loss: Literal["auto", "kl", "binary-kl", "mse"] = Field(
        default="auto",
        description="How outputs are compared. `kl`: shares of classes at the temperature (Kullback-Leibler); `binary-kl`: the "
        "probability of each number by itself, likewise; `mse`: the numbers, their mean squared error. `auto`: `kl` for outputs "
        "of classes, `binary-kl` for labels that are truth values and outputs of a sigmoid, else `mse`. Without labels, an output "
        "is of classes where a softmax gives it, or where it is a row that comes straight from a layer.",
    )
    hard_loss: Literal["auto", "cross-entropy", "binary-cross-entropy", "mse", "l1", "smooth-l1"] = Field(
        default="auto", description="The loss against labels; see `loss` of the pass `finetune`."
    )

    @property
    def learns_from_labels(self) -> bool:
        """Whether labels are part of the loss, where there are some."""
        return self.hard_weight > 0
