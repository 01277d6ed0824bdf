"""Parameters of the passes `depthwise-separable` and `low-rank`."""

from pydantic import Field, model_validator

from app.catalog.spec import Params

DEFAULT_ENERGY = 0.95
IGNORE = "Layers that stay as they are, by name; `*` and `?` stand for any characters."
SAMPLES = "Samples of `calibration` that the factors are fitted on, at most."


class DepthwiseSeparableParams(Params):
    """Puts a depthwise and a pointwise convolution in place of convolutions whose kernel is larger than one place. The trained
    weights say where both start: for each input channel the best factors of its filters, by singular values; with `calibration`
    data the pointwise weights are then fitted to what the layer gives on them. Accuracy falls at first, often much: let `distill` or
    `finetune` follow. Fewer operations are not always faster: depthwise convolutions move much memory for each of them, and the
    job's measurement says what it came to.

    Source: Guo et al., Network Decoupling, 2018 (https://arxiv.org/abs/1808.05517), for the factors; He et al., Channel Pruning
    for Accelerating Very Deep Neural Networks, 2017, section 3.1 (https://arxiv.org/abs/1707.06168), for least squares on a layer's
    outputs.
    """

    keep_flops: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="The share of the network's floating point operations that may stay: layers are replaced in the order of what they "
        "lose for what they save, until it is reached. Absent: every layer that saves something.",
    )
    max_error: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Replace no layer whose outputs (without data: weights) would be further away than this, relative, root mean square.",
    )
    multiplier: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Depthwise filters for each input channel: more come nearer to the layer, and cost more.",
    )
    first_layer: bool = Field(
        default=False,
        description="Replace the first convolution too; its input has few channels, so little is saved.",
    )
    ignore: tuple[str, ...] = Field(default=(), max_length=1000, description=IGNORE)
    samples: int = Field(default=128, ge=1, le=1_000_000, description=SAMPLES)


class LowRankParams(Params):
    """Puts two narrow layers in place of linear layers and 1×1 convolutions: as much of what they give as a lower rank can hold.
    Without data that is the singular values of the weights; with `calibration` data the principal components of the layer's
    outputs, which keeps what the network's own inputs use. Layers that would not become smaller stay. Give a `rank`, an
    `energy`, or `keep_parameters`; without one the energy is 0.95.

    Source: Denton et al., Exploiting Linear Structure Within Convolutional Networks, 2014 (https://arxiv.org/abs/1404.0736), for
    weights; Zhang et al., Accelerating Very Deep Convolutional Networks, 2015, sections 3.1 and 3.3
    (https://arxiv.org/abs/1505.06798), for outputs, and for ranks under a total.
    """

    rank: int | None = Field(default=None, ge=1, le=1_000_000, description="The rank of every layer.")
    energy: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="The share of each layer's energy (squared singular values, or variance of outputs) that its rank keeps.",
    )
    keep_parameters: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="The share of the network's parameters that may stay: each layer gets the rank at which another parameter would "
        "bring no more energy than elsewhere.",
    )
    ignore: tuple[str, ...] = Field(default=(), max_length=1000, description=IGNORE)
    samples: int = Field(default=256, ge=1, le=1_000_000, description=SAMPLES)

    @model_validator(mode="after")
    def _one_goal(self) -> "LowRankParams":
        given = [name for name in ("rank", "energy", "keep_parameters") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of rank, energy and keep_parameters, not {' and '.join(given)}")
        return self

    @property
    def least_energy(self) -> float:
        """The energy to keep, where neither a rank nor a total is given."""
        return DEFAULT_ENERGY if self.energy is None else self.energy
