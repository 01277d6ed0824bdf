"""Parameters of the pass `prune-weights`."""

from typing import Literal

from pydantic import Field, model_validator

from app.catalog.spec import Params

DEFAULT_RATIO = 0.5


class PruneWeightsParams(Params):
    """Sets the weights of convolutions and linear layers that matter least, by their magnitude, to zero. The network keeps its
    shape, its size and, on most runtimes, its speed: zeros are multiplied as other numbers are. Each runtime says what it makes of
    them (`sparsity` in `GET /v1/runtimes`); `prune-channels` makes networks faster everywhere.

    Either any weights, up to a `ratio`; or N:M, where of every `m` weights in a row `n` stay: along the input channels, as sparse
    tensor cores want it (2:4). Passes that train afterwards keep the zeros (`keep_zeros`), so `finetune` or `distill` win back
    accuracy; `quantize-static` and `qat` keep them too. Files become smaller when they are compressed.

    Source: Han et al., Learning both Weights and Connections for Efficient Neural Networks, 2015
    (https://arxiv.org/abs/1506.02626), for magnitudes; Mishra et al., Accelerating Sparse Deep Neural Networks, 2021
    (https://arxiv.org/abs/2104.08378), for 2:4.
    """

    ratio: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="The share of weights that becomes zero. Absent, where `n` and `m` are: 0.5. 0 changes nothing.",
    )
    scope: Literal["global", "per-layer"] = Field(
        default="global",
        description="For `ratio`: whether the weights of all layers compete, or each layer loses the same share of its own.",
    )
    n: int | None = Field(
        default=None, ge=1, le=63, description="How many of `m` weights in a row stay, the largest ones."
    )
    m: int | None = Field(default=None, ge=2, le=64, description="Of how many weights in a row `n` stay.")
    ignore: list[str] = Field(
        default_factory=list,
        max_length=1000,
        description="Layers whose weights stay: names, or patterns with `*` and `?`.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> "PruneWeightsParams":
        if (self.n is None) != (self.m is None):
            raise ValueError("n and m go together: n=2, m=4 leaves 2 of every 4 weights")
        if self.n is not None and self.m is not None:
            if self.ratio is not None:
                raise ValueError("give ratio, or n and m: n of m is a ratio of its own")
            if self.n >= self.m:
                raise ValueError(f"n={self.n} of m={self.m} leaves every weight: n must be less than m")
        return self
