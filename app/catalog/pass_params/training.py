"""Parameters that all passes have which train."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from app.catalog.spec import Params
from app.catalog.transforms import Random

HOROVOD_HINT = (
    "start a worker from the image `worker-horovod` or from `make horovod-env`, or use the backend `torchrun`"
)


class LoaderParams(Params):
    """How samples get from a dataset to the network. Nothing here changes the samples, so nothing is part of a step's key."""

    mode: Literal["auto", "fixed"] = Field(
        default="auto",
        description="`auto` measures and picks what is not given; `fixed` takes what is given.",
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="Processes that read and transform samples; 0: none but the one that trains.",
    )
    prefetch: int = Field(default=2, ge=1, le=64, description="Batches that each of them has ready.")
    cache: Literal["auto", "none", "memory", "disk"] = Field(
        default="auto",
        description="Where samples are kept once they are read and transformed, before random transforms. `auto`: on disk, where "
        "there is room; with mode `auto` in memory too, where the network would wait for the disk and a quarter of the memory that "
        "is left to the job takes all of them.",
    )


class DistributedParams(Params):
    """Several processes that train one network, each on its share of every batch.

    Source: Li et al., PyTorch Distributed: Experiences on Accelerating Data Parallel Training, 2020
    (https://arxiv.org/abs/2006.15704); Zhao et al., PyTorch FSDP, 2023 (https://arxiv.org/abs/2304.11277); Sergeev and Del Balso,
    Horovod, 2018 (https://arxiv.org/abs/1802.05799).
    """

    processes: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        default=1, description="How many on a machine; `auto`: one for each GPU, or one where there is none."
    )
    nodes: int = Field(
        default=1,
        ge=1,
        le=16,
        description="Workers that train together, each with so many `processes`. Above 1 that is a number.",
    )
    on_lost: Literal["replace", "shrink"] = Field(
        default="replace",
        description="What follows when a node is lost, from the last checkpoint on. `replace`: another worker takes its place; "
        "`shrink`: where none does in time, those that are left go on.",
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="`ddp`: each holds the whole network; `fsdp`: each holds a share of its weights.",
    )
    backend: Literal["torchrun", "horovod"] = Field(
        default="torchrun",
        description="What gradients go by: `torchrun`: `torch.distributed`; `horovod`: Horovod, where the worker has it. Either way "
        "torchrun's agent starts the processes.",
    )

    @model_validator(mode="after")
    def _known_before_they_meet(self) -> Self:
        if self.nodes > 1 and self.processes == "auto":
            raise ValueError("each of several nodes has as many processes: say how many in `processes`")
        if self.backend == "horovod" and self.strategy == "fsdp":
            raise ValueError("Horovod has no shares of weights: `fsdp` goes by the backend `torchrun`")
        return self


class TrainingParams(Params):
    """What training takes, whatever is trained. `batch_size` is one step's, over all processes."""

    epochs: int = Field(default=5, ge=1, le=10_000, description="How often all training data are seen.")
    batch_size: int = Field(
        default=64, ge=1, le=1_000_000, description="Samples that one step of the optimizer sees."
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="Parts that a batch is computed in, where it does not fit into memory.",
    )
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="The optimizer.")
    learning_rate: float = Field(default=1e-3, gt=0, le=100, description="The highest learning rate.")
    weight_decay: float = Field(
        default=1e-4, ge=0, le=10, description="Weight decay; norms and biases have none."
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Of `sgd` (Nesterov's).")
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine",
        description="The learning rate after the warm-up: down to 0 as a cosine, or constant.",
    )
    warmup: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="The share of all steps in which the learning rate rises from 0.",
    )
    clip_norm: float | None = Field(
        default=1.0, gt=0, description="The greatest norm of all gradients together. Null: any."
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Leave the exponential moving average of the weights instead of the last ones, with this decay a step.",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Stop when the validation metric was not better for this many epochs. Needs `validation` data.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="What layers compute in while they train (autocast); weights stay fp32."
    )
    freeze_batch_norm: bool = Field(
        default=False, description="Leave the running statistics of batch norms as they are."
    )
    keep_zeros: bool | Literal["auto"] = Field(
        default="auto",
        description="Whether weights that are zero stay zero (those of convolutions, products and embeddings; not norms and "
        "biases). `auto`: where at least 5% are, as `prune-weights` leaves them; weights that are zero throughout are trained.",
    )
    output: str | None = Field(
        default=None, max_length=500, description="The output that is trained. Absent: the only one."
    )
    metric: str | None = Field(
        default=None,
        max_length=40,
        description="What `validation` data are scored by, a name in `GET /v1/metrics`. Absent: by the loss.",
    )
    augment: list[Random] = Field(
        default_factory=list, max_length=20, description="Random transforms of training samples, in order."
    )
    loader: LoaderParams = Field(default_factory=LoaderParams, description="How samples are read.")
    distributed: DistributedParams = Field(
        default_factory=DistributedParams, description="Which processes train."
    )

    @property
    def learns_from_labels(self) -> bool:
        """Whether labels are part of the loss, where there are some."""
        return True


def trains_by_horovod(params: Mapping[str, Any]) -> bool:
    """Whether a pass with these parameters trains by Horovod, where it trains in several processes."""
    distributed = params.get("distributed")
    return isinstance(distributed, Mapping) and distributed.get("backend") == "horovod"
