"""What layers give on data, as mean and deviation of each channel: as it was before channels were removed, and again after that.

Removing channels moves the means and variances of all that is computed behind them, and that costs most of the accuracy that is
lost. Batch norms count theirs anew (Li et al., EagleEye, 2020, section 3.3, https://arxiv.org/abs/2007.02491). Other layers, as
those into which exporters fold batch norms, get the weights and the bias by which their channels have the mean and the deviation
that they had (Jordan et al., REPAIR, 2022, https://arxiv.org/abs/2211.08403, which does so for weights that were averaged).
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from app.errors import InvalidDataset
from workers.context import PassContext
from workers.surgery.drawing import STAGE, drawn
from workers.surgery.factoring import shared
from workers.torch.model import TorchModel
from workers.training.rebatch import rebatched
from workers.training.task import device_of

BATCH = 64  # the variance between batches is lost: of few samples it is much
LOUDEST = 10.0  # a channel is made at most so many times louder: one that hardly moves says nothing of how it should
Layer = _ConvNd | nn.Linear
# of a layer's name, the layer and what it gave: what it gives instead
Note = Callable[[str, nn.Module, Tensor], Tensor | None]


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each channel that a layer gives, float64."""

    mean: Tensor
    variance: Tensor

    def of(self, kept: Tensor) -> "Moments":
        """Those of some channels."""
        return Moments(self.mean[kept], self.variance[kept])


class _Given:
    """The moments of what a layer gives in all its calls."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._squares = torch.zeros(())

    def add(self, layer: nn.Module, value: Tensor) -> Moments:
        """Add a call; its own moments."""
        axis = value.dim() - 1 - _behind(layer)
        variance, mean = torch.var_mean(
            value, [one for one in range(value.dim()) if one != axis], correction=0
        )
        found = Moments(mean.double().cpu(), variance.double().cpu())
        count = value.numel() // len(mean)
        self._count += count
        self._sum = self._sum + count * found.mean
        self._squares = self._squares + count * (found.variance + found.mean.square())
        return found

    @property
    def moments(self) -> Moments:
        mean = self._sum / self._count
        return Moments(mean, (self._squares / self._count - mean.square()).clamp_min(0))


@torch.no_grad()
def moments(model: TorchModel, ctx: PassContext, samples: int) -> dict[str, Moments]:
    """What layers give on at most `samples` samples of `train`: those that `restore` can change.

    Raises:
        InvalidDataset, SignatureMismatch, InvalidModel: see `drawn` and `rebatched`; a layer gives NaN or infinity.
    """
    given = {name: _Given() for name in _layers(model.module)}

    def note(name: str, layer: nn.Module, value: Tensor) -> None:
        _check(name, given[name].add(layer, value).variance)

    _run(model, ctx, samples, dict.fromkeys(given, note), "noting what layers give")
    return {name: one.moments for name, one in given.items()}


@torch.no_grad()
def restore(model: TorchModel, wanted: Mapping[str, Moments], ctx: PassContext, samples: int) -> list[str]:
    """Give layers the moments that are wanted of them, and batch norms statistics of their own, in place. The names of all of them.

    Each layer is changed behind others that were changed already. A layer without a norm or a bias stays as it is.

    Raises:
        InvalidDataset, SignatureMismatch, InvalidModel: as `moments`.
    """
    given = {name: _Given() for name in wanted}

    def change(name: str, layer: nn.Module, value: Tensor) -> Tensor:
        found = given[name].add(layer, value)
        _check(name, found.variance)
        lying = (-1, *[1] * _behind(layer))
        scale, shift = (one.to(value).reshape(lying) for one in _change(found, wanted[name]))
        return value * scale + shift

    twin = _run(
        model, ctx, samples, dict.fromkeys(wanted, change), "restoring what layers give", count_anew=True
    )
    norms = _norms(twin)
    for name in norms:
        for key in ("running_mean", "running_var"):
            found = getattr(twin.get_submodule(name), key)
            _check(name, found)
            getattr(model.module.get_submodule(name), key).copy_(found)
    for name in wanted:
        layer: Any = model.module.get_submodule(name)
        scale, shift = (one.to(layer.weight) for one in _change(given[name].moments, wanted[name]))
        layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias.copy_(layer.bias * scale + shift)
    return [*norms, *wanted]


def _change(given: Moments, wanted: Moments) -> tuple[Tensor, Tensor]:
    """What to multiply a channel by, and then to add to it."""
    least = wanted.variance / LOUDEST**2
    scale = (wanted.variance / given.variance.maximum(least)).sqrt()
    scale = torch.where(wanted.variance > 0, scale, torch.ones_like(scale))
    return scale, wanted.mean - given.mean * scale


def _behind(layer: nn.Module) -> int:
    """How many axes stand behind the channels in what a layer gives."""
    assert isinstance(layer, Layer)
    return layer.weight.dim() - 2


def _layers(network: nn.Module) -> list[str]:
    """Layers that can be changed: called once, with a bias, their weights their own, something else than a batch norm behind them."""
    assert isinstance(network, fx.GraphModule)
    calls: dict[str, list[fx.Node]] = {}
    for node in network.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    taken = shared(network)
    found = []
    for name, nodes in calls.items():
        layer = network.get_submodule(name)
        if not isinstance(layer, Layer) or getattr(layer, "transposed", False) or layer.bias is None:
            continue
        if (
            len(nodes) == 1
            and name not in taken
            and not all(_is_norm(network, one) for one in nodes[0].users)
        ):
            found.append(name)
    return found


def _is_norm(network: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), _BatchNorm)


def _norms(network: nn.Module) -> list[str]:
    """Batch norms that keep statistics."""
    return [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    ]


def _run(
    model: TorchModel,
    ctx: PassContext,
    samples: int,
    notes: Mapping[str, Note],
    doing: str,
    *,
    count_anew: bool = False,
) -> nn.Module:
    """Run a copy, which is returned, with a hook on layers; `count_anew`: its batch norms count each batch the same."""
    device = device_of(ctx.device)
    twin = rebatched(TorchModel(copy.deepcopy(model.module), model.inputs, model.outputs))
    twin.module.to(device)
    if count_anew:
        for norm in map(twin.module.get_submodule, _norms(twin.module)):
            assert isinstance(norm, _BatchNorm)
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
    for name, note in notes.items():
        layer = twin.module.get_submodule(name)
        layer.register_forward_hook(
            lambda layer, taken, given, name=name, note=note: note(name, layer, given)
        )
    for batch in drawn(twin.inputs, ctx, BATCH, samples, device, doing):
        twin.module(*batch.inputs)
    return twin.module


def _check(name: str, values: Tensor) -> None:
    """Raises InvalidDataset where numbers are none."""
    if not bool(torch.isfinite(values).all()):
        raise InvalidDataset(
            f"{name} gets or gives NaN or infinity on the training data",
            stage=STAGE,
            node=name,
            param="inputs.train",
            hint="remove samples with NaN or infinity, or look for a fault in their preprocessing",
        )
