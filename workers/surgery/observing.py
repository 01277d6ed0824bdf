"""What layers take and give while data run through a network."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from app.errors import InvalidDataset
from workers.context import Samples
from workers.feeds import plan_feeds
from workers.torch.model import TorchModel, to_tensor

BATCH = 16


class Observer(Protocol):
    """Notes what one layer takes and gives."""

    def __call__(self, taken: Tensor, given: Tensor) -> None:
        """A call of the layer."""
        ...


@torch.no_grad()
def observe(
    model: TorchModel, observers: Mapping[str, Observer], samples: Samples, limit: int, stage: str
) -> None:
    """Run at most `limit` samples; each observer sees every call of the layer of its name.

    Raises:
        SignatureMismatch: the data do not fit the network's inputs.
        InvalidDataset: a layer gives NaN or infinity on them.
    """
    plan = plan_feeds(list(map(dict, model.inputs)), samples.inputs)
    handles = [
        model.module.get_submodule(name).register_forward_hook(_hook(name, observer, samples, stage))
        for name, observer in observers.items()
    ]
    try:
        for batch, _ in samples.batches(BATCH, limit):
            for feeds, _ in plan.feeds(batch):
                model.module(*(to_tensor(feeds[entry["name"]]) for entry in model.inputs))
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, observer: Observer, samples: Samples, stage: str):  # type: ignore[no-untyped-def]
    def note(layer: nn.Module, taken: tuple[Tensor, ...], given: Tensor) -> None:
        if not torch.isfinite(given).all():
            raise InvalidDataset(
                f"the layer {name} gives NaN or infinity on the calibration data",
                stage=stage,
                node=name,
                hint="look for NaN in the data, and for a missing `normalize` transform",
            )
        observer(taken[0], given)

    return note


def channels_last(values: Tensor, layer: nn.Module) -> Tensor:
    """Values of a layer as rows: [places, channels], float64."""
    if not isinstance(layer, nn.Linear):
        spatial = layer.weight.dim() - 2  # type: ignore[operator]
        values = values.movedim(-1 - spatial, -1)
    return values.reshape(-1, values.shape[-1]).double()
