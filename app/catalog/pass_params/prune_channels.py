"""Parameters of the pass `prune-channels`."""

from typing import Literal

from pydantic import Field, model_validator

from app.catalog.spec import Params

Importance = Literal["magnitude-l1", "magnitude-l2", "batch-norm", "taylor", "hessian", "random"]
Target = Literal["flops", "parameters", "size", "latency"]
DEFAULT_RATIO = 0.5


class PruneChannelsParams(Params):
    """Removes the channels that matter least, and all that hangs on them: filters, norms' weights, what later layers read of
    them, heads of attention, the width of feed-forward parts. What is left is a smaller network of the same kind, faster on every
    runtime; `finetune` or `distill` after it wins back accuracy. Outputs keep their size.

    Channels that must go together (residual additions, groups, depthwise convolutions, heads) are one unit, whatever operators
    they run through. Give a `ratio`, or a `target` and the share of it that may stay: with `taylor` and `hessian` those units go first
    then that lose least for what they save. For pruning in turns with training put the pass and `finetune` several times into the
    recipe; `steps` alone estimates importance anew between cuts, without training.

    Source: Li et al., Pruning Filters for Efficient ConvNets, 2017, for `magnitude-l1` (https://arxiv.org/abs/1608.08710); Liu et
    al., Network Slimming, 2017, for `batch-norm` (https://arxiv.org/abs/1708.06519); Molchanov et al., Importance Estimation for
    Neural Network Pruning, 2019, equation 8, for `taylor` (https://arxiv.org/abs/1906.10771); LeCun et al., Optimal Brain Damage,
    1990, with the Fisher information for the diagonal of the Hessian as Theis et al., 2018, have it, for `hessian`
    (https://arxiv.org/abs/1801.05787); Aflalo et al., Knapsack Pruning with Inner Distillation, 2020, for what units save
    (https://arxiv.org/abs/2002.08258); Li et al., EagleEye, 2020, for statistics of batch norms (https://arxiv.org/abs/2007.02491);
    Jordan et al., REPAIR, 2022, for those of other layers (https://arxiv.org/abs/2211.08403);
    Fang et al., DepGraph, 2023, for channels that depend on one another (https://arxiv.org/abs/2301.12900).
    """

    importance: Importance = Field(
        default="magnitude-l2",
        description="What a unit is worth. `magnitude-l1`, `magnitude-l2`: the norm of its filters, over its layer's mean; "
        "`batch-norm`: the scale of its batch norms; `taylor`, `hessian`: what the loss would lose, to first order and by the "
        "diagonal of its Hessian, on `train` data; `random`: nothing, as the control.",
    )
    scope: Literal["global", "per-layer"] = Field(
        default="global",
        description="Whether units of all layers compete, or each layer loses the same share of its own.",
    )
    ratio: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="The share of units to remove. Absent, where no target is given: 0.5. 0 removes nothing.",
    )
    target: Target | None = Field(
        default=None,
        description="Remove as little as leaves the share `to` of the floating point operations, the parameters, the bytes of all "
        "weights (running statistics included), or the latency, measured on the job's own target: within 5% of it on either side, else the "
        "nearest that is faster, with a warning.",
    )
    to: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="The share of `target` that may stay; without a target it says nothing.",
    )
    steps: int = Field(
        default=4,
        ge=1,
        le=100,
        description="Cuts that it is done in for `taylor` and `hessian`, which are estimated anew before each.",
    )
    ignore: tuple[str, ...] = Field(
        default=(),
        max_length=1000,
        description="Layers whose outputs keep their channels, by name; `*` and `?` stand for any characters.",
    )
    keep: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="The least share of its channels that each layer keeps; one at least.",
    )
    round_to: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="Layers that lose channels keep a multiple of this many, and narrower ones all: kernels compute channels in "
        "blocks, and half of the operations with odd numbers of channels take 0.9 of the time on ONNX Runtime, with multiples of 8 0.6. "
        "1: any number.",
    )
    samples: int = Field(
        default=256,
        ge=1,
        le=10_000_000,
        description="Samples of `train` that importance, and what layers give, are estimated on, at most.",
    )
    recalibrate: bool = Field(
        default=True,
        description="Fit layers anew after each cut to what they give, where there are `train` data; labels are not needed. Batch norms "
        "count new statistics; other layers with a bias get back the mean and the deviation of each channel. Without training "
        "afterwards that gives back most of the accuracy: of 99% a small network for digits with 0.6 of its operations kept 44 to 77% "
        "without and 92 to 95% with it.",
    )
    batch_size: int = Field(
        default=4,
        ge=1,
        le=10_000,
        description="Samples whose gradients are taken together for `taylor`; `hessian` takes them one by one.",
    )
    output: str | None = Field(
        default=None, max_length=500, description="The output that the labels are for. Absent: the only one."
    )
    loss: Literal["auto", "cross-entropy", "binary-cross-entropy", "mse", "l1", "smooth-l1"] = Field(
        default="auto",
        description="The loss against labels, as in `finetune`. Without labels, what counts is how much all outputs change.",
    )

    @model_validator(mode="after")
    def _one_goal(self) -> "PruneChannelsParams":
        if self.ratio is not None and self.target is not None:
            raise ValueError("give a ratio or a target, not both")
        return self

    @property
    def share(self) -> float:
        """The share of units to remove, where there is no target."""
        return DEFAULT_RATIO if self.ratio is None else self.ratio
