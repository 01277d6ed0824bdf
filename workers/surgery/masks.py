"""Which weights become zero: the smallest ones, any or N of every M, and how many are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from app.errors import IncompatibleRecipe
from workers.surgery.naming import called, check_ignored, is_ignored
from workers.surgery.savings import fits_groups

STAGE = "prune-weights"
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NAMED = 20


@dataclass
class Prunable:
    """Weights by the name of the first layer that reads them, and why others stay: {layer: reason}."""

    weights: dict[str, nn.Parameter] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def prunable(network: fx.GraphModule, ignore: Sequence[str], group: int | None = None) -> Prunable:
    """The weights of convolutions and linear layers; for N:M those whose input channels come in whole groups of `group`.

    A weight that an embedding reads too stays: it would lose what words mean.

    Raises:
        InvalidParams: a name or pattern in `ignore` is no such layer's.
        IncompatibleRecipe: nothing is left to prune.
    """
    layers = called(network, (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear))
    check_ignored(ignore, layers, "convolution and no linear layer", STAGE)
    embedded = {id(part.weight) for part in network.modules() if isinstance(part, nn.Embedding)}
    found = Prunable()
    taken: set[int] = set()
    for name, layer in layers.items():
        weight = _weight(layer)
        reason = _reason(name, layer, ignore, group)
        if id(weight) in embedded:
            reason = "shares its weight with an embedding"
        if reason is not None:
            found.left_out[name] = reason
        elif id(weight) not in taken:
            taken.add(id(weight))
            found.weights[name] = weight
    if not found.weights:
        reasons = "; ".join(f"{name} {reason}" for name, reason in list(found.left_out.items())[:_NAMED])
        raise IncompatibleRecipe(
            "the network has no weights that could be set to zero"
            + (f": {reasons}" if reasons else ", for it has no convolution and no linear layer"),
            stage=STAGE,
            hint="take layers out of `ignore`, give a smaller m, or leave the pass out of the recipe",
        )
    return found


def by_magnitude(weights: Mapping[str, Tensor], ratio: float, *, per_layer: bool) -> dict[str, Tensor]:
    """What stays, as truth values of the weights' shapes: all but the share `ratio` of the smallest magnitudes.

    Of equal ones those that come first stay. A layer keeps at least its largest weight, and so lets signals through.
    """
    if per_layer:
        return {name: _largest(weight, ratio) for name, weight in weights.items()}
    sizes = [weight.numel() for weight in weights.values()]
    flat = torch.cat([weight.detach().flatten() for weight in weights.values()])
    kept = torch.split(_largest(flat, ratio), sizes)
    masks = {name: mask.view_as(weight) for (name, weight), mask in zip(weights.items(), kept, strict=True)}
    for name, mask in masks.items():
        if not mask.any():
            masks[name] = _largest(weights[name], 1 - 1 / mask.numel())
    return masks


def n_of_m(weights: Mapping[str, Tensor], n: int, m: int) -> dict[str, Tensor]:
    """What stays: of every `m` input channels in a row, at each place of the kernel, the `n` largest magnitudes."""
    return {name: _groups(weight, n, m) for name, weight in weights.items()}


@torch.no_grad()
def apply(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set to zero what does not stay."""
    for name, weight in weights.items():
        weight.masked_fill_(~masks[name], 0)


def _weight(layer: nn.Module) -> nn.Parameter:
    assert isinstance(layer.weight, nn.Parameter)
    return layer.weight


def _reason(name: str, layer: nn.Module, ignore: Sequence[str], group: int | None) -> str | None:
    if is_ignored(name, ignore):
        return "is ignored"
    if group is None:
        return None
    if isinstance(layer, _TRANSPOSED):
        return "is a transposed convolution, whose sums do not run along its input channels"
    shape = _weight(layer).shape
    if not fits_groups(shape, group):
        return f"has {shape[1]} input channels in a sum, which are no whole groups of {group}"
    return None


def _largest(weight: Tensor, ratio: float) -> Tensor:
    """At least one stays."""
    size = weight.numel()
    gone = min(round(size * ratio), size - 1)
    order = weight.detach().abs().flatten().argsort(descending=True, stable=True)
    mask = torch.ones(size, dtype=torch.bool, device=weight.device)
    mask[order[size - gone :]] = False
    return mask.view_as(weight)


def _groups(weight: Tensor, n: int, m: int) -> Tensor:
    """Of a weight [outputs, inputs, *kernel]."""
    rows = weight.detach().abs().movedim(1, -1)
    groups = rows.reshape(-1, m)
    order = groups.argsort(dim=1, descending=True, stable=True)
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, order[:, :n], True)
    return mask.view(rows.shape).movedim(-1, 1)
