"""Parameters of the pass `shrink-depth`."""

from typing import Literal

from pydantic import Field, model_validator

from app.catalog.spec import Params

Target = Literal["flops", "parameters", "latency"]
DEFAULT_TARGET: Target = "flops"


class ShrinkDepthParams(Params):
    """Drops residual branches, the f of y = x + f(x): attention and feed-forward parts of transformers, identity blocks of residual
    networks, inverted residuals. At each step that branch goes without which the network's outputs change least for what it saves, on
    samples of `train`; labels are not read. What is left is a shallower network, faster on every runtime; `finetune` or `distill` after it
    wins back accuracy. Give the share `to` of a `target` that may stay, or how many branches go (`count`).

    Source: Men et al., ShortGPT, 2024 (https://arxiv.org/abs/2403.03853), and Gromov et al., The Unreasonable Ineffectiveness of the
    Deeper Layers, 2024 (https://arxiv.org/abs/2403.17887), for layers that change little; Zhong et al., BlockPruner, 2024
    (https://arxiv.org/abs/2406.10594), for attention and feed-forward parts one by one, chosen anew after each.
    """

    target: Target | None = Field(
        default=None,
        description="Drop as few branches as leave at most the share `to` of the floating point operations, the parameters, or the "
        "latency, measured on the job's own target. Absent, where no `count` is given: `flops`.",
    )
    to: float = Field(
        default=0.8,
        gt=0,
        lt=1,
        description="The share of `target` that may stay; with a `count` it says nothing.",
    )
    count: int | None = Field(
        default=None, ge=1, le=10_000, description="How many branches go, in place of a target."
    )
    per_saving: bool = Field(
        default=True,
        description="Whether that branch goes whose loss is least for each operation (of `parameters`: parameter) that it saves; false: "
        "whose loss is least, whatever it saves, as with a `count`.",
    )
    ignore: tuple[str, ...] = Field(
        default=(),
        max_length=1000,
        description="Branches and layers that stay, by name; a branch with such a layer stays as a whole. `*` and `?` stand for any "
        "characters.",
    )
    samples: int = Field(
        default=128,
        ge=1,
        le=1_000_000,
        description="Samples of `train` that the outputs are compared on, at most. They run once for each branch that could go, in each step.",
    )
    recalibrate: bool = Field(
        default=True,
        description="Fit layers anew afterwards to what they gave before, on the same samples: batch norms count new statistics, other "
        "layers with a bias get back the mean and the deviation of each channel.",
    )

    @model_validator(mode="after")
    def _one_goal(self) -> "ShrinkDepthParams":
        if self.count is not None and self.target is not None:
            raise ValueError("give a count or a target, not both")
        return self

    @property
    def goal(self) -> Target:
        """What the share is of, where no count is given."""
        return self.target or DEFAULT_TARGET
