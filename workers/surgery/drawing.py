"""Samples of `train` as batches, for what reads some of them once: which ones, the seed draws."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from app.catalog.pass_params.training import LoaderParams
from app.errors import InvalidDataset
from workers.context import PassContext
from workers.training.batches import open_batches
from workers.training.data import describe
from workers.training.task import Batch

STAGE = "surgery"
LOADER = LoaderParams(mode="fixed", workers=0, cache="none")


def drawn(
    inputs: Sequence[Mapping[str, Any]],
    ctx: PassContext,
    batch_size: int,
    most: int,
    device: torch.device,
    doing: str,
) -> Iterator[Batch]:
    """Batches for a network that takes these inputs, of at most `most` samples in all; one batch at least. `doing` is reported.

    Raises:
        InvalidDataset, SignatureMismatch: there are no samples, or they do not fit the inputs.
    """
    count = ctx.samples["train"].count
    if not count:
        raise InvalidDataset("the data have no samples", stage=STAGE, param="inputs.train")
    size = min(batch_size, count)
    batches = open_batches(
        describe(ctx.samples["train"], ctx, LOADER.cache), inputs=inputs, batch_size=size, seed=ctx.seed,
        rank=0, world=1, device=device, augment=[], loader=LOADER,
    )  # fmt: skip
    wanted = max(1, min(most, count) // size)
    try:
        for number, batch in zip(range(wanted), batches.epoch(0), strict=False):
            ctx.report(number, wanted, doing)
            yield batch
    finally:
        batches.close()
