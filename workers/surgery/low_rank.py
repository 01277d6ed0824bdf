"""A linear layer or 1×1 convolution as two narrow ones, as near to it as a rank allows.

Of what the layer gives, y = Wx + b, the nearest of rank r is its projection on the first r principal components U of y around its
mean m: U Uᵀ(Wx + b - m) + m (Zhang et al., 2015, section 3.1, https://arxiv.org/abs/1505.06798). Without data all inputs are
alike, and that is the truncated singular value decomposition of W.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from workers.context import Samples
from workers.surgery.observing import channels_last, observe
from workers.torch.model import TorchModel

Narrowable = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
WIDEST = 4096  # of the narrower side: beyond, the components of outputs take too much memory, and weights alone are asked
HELD = 1 << 30  # bytes of moments that are gathered in one run over the data
UNSEEN = 0.01  # the share of the weights' own components, for directions that no sample showed


def matrix(layer: Narrowable) -> Tensor:
    """The weight as [outputs, inputs], float64."""
    return layer.weight.detach().double().flatten(1)


def break_even(layer: Narrowable) -> int:
    """The largest rank at which the two layers have fewer weights than the one."""
    outputs, inputs = matrix(layer).shape
    return (outputs * inputs - 1) // (outputs + inputs)


@dataclass
class Spectrum:
    """A layer's components: `vectors` [outputs, components] in float32, their `energies` in descending order, the outputs' `mean` where
    data told it."""

    vectors: Tensor
    energies: Tensor
    mean: Tensor | None = None

    def error(self, rank: int) -> float:
        """The relative root mean square of what a rank loses."""
        total = float(self.energies.sum())
        return sqrt(max(0.0, float(self.energies[rank:].sum()) / total)) if total > 0 else 0.0

    def rank_of(self, energy: float) -> int:
        """The least rank that keeps this share of the energy."""
        total = self.energies.sum()
        if total <= 0:
            return 1
        reached = self.energies.cumsum(0) / total
        return min(int((reached < energy - 1e-12).sum()) + 1, len(self.energies))


def of_weights(layer: Narrowable) -> Spectrum:
    """The components of the weights alone."""
    vectors, values, _ = torch.linalg.svd(matrix(layer), full_matrices=False)
    return Spectrum(vectors.float(), values.square())


class Outputs:
    """The second moments of a layer's outputs, gathered at its narrower side."""

    def __init__(self, layer: Narrowable):
        self._layer = layer
        outputs, inputs = matrix(layer).shape
        self._of_inputs = inputs < outputs
        size = min(outputs, inputs)
        self._moments = torch.zeros(size, size, dtype=torch.float64)
        self._sum = torch.zeros(size, dtype=torch.float64)
        self._count = 0

    def __call__(self, taken: Tensor, given: Tensor) -> None:
        """Add a call of the layer."""
        rows = channels_last(taken if self._of_inputs else given, self._layer)
        self._moments += rows.T @ rows
        self._sum += rows.sum(0)
        self._count += len(rows)

    def spectrum(self) -> Spectrum:
        """The components of the outputs: around their mean where the layer has a bias, which takes it up, else around 0.

        A little of the weights' own components decides where data say nothing; energies are those of the data.
        """
        weights = matrix(self._layer)
        mean = self._sum / max(self._count, 1)
        bias = self._layer.bias
        spread = self._moments / max(self._count, 1)
        if bias is not None:
            spread = spread - torch.outer(mean, mean)
        own = weights @ weights.T
        if self._of_inputs:
            spread = weights @ spread @ weights.T
            mean = weights @ mean + (0 if bias is None else bias.detach().double())
        total, alone = spread.trace().clamp_min(1e-300), own.trace().clamp_min(1e-300)
        _, vectors = torch.linalg.eigh((1 - UNSEEN) * spread / total + UNSEEN * own / alone)
        vectors = vectors.flip(1)[:, : min(weights.shape)]
        energies = ((spread @ vectors) * vectors).sum(0).clamp_min(0)
        order = energies.argsort(descending=True, stable=True)
        return Spectrum(vectors[:, order].float(), energies[order], None if bias is None else mean)


def of_outputs(
    model: TorchModel, layers: Mapping[str, Narrowable], samples: Samples, limit: int, stage: str
) -> dict[str, Spectrum]:
    """The components of what layers give on at most `limit` samples. The data are run once for as many layers as `HELD` has room for.

    Raises:
        SignatureMismatch, InvalidDataset: see `observe`.
    """
    found: dict[str, Spectrum] = {}
    for names in _rounds(
        {name: 8 * min(layer.weight.shape[:2]) ** 2 for name, layer in layers.items()}, HELD
    ):
        outputs = {name: Outputs(layers[name]) for name in names}
        observe(model, outputs, samples, limit, stage)
        for name in names:
            found[name] = outputs.pop(name).spectrum()
    return found


def _rounds(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Names in order, in groups whose sizes add up to at most `most`, or of one name."""
    groups: list[list[str]] = []
    held = most
    for name, size in sizes.items():
        if held + size > most:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups


def narrowed(layer: Narrowable, spectrum: Spectrum, rank: int) -> dict[str, nn.Module]:
    """`first` and `second`: what takes the layer's place."""
    vectors = spectrum.vectors[:, :rank].double()
    vectors = vectors * _signs(vectors)
    bias = None if layer.bias is None else layer.bias.detach().double()
    if spectrum.mean is not None and bias is not None:
        bias = vectors @ (vectors.T @ (bias - spectrum.mean)) + spectrum.mean
    first, second = _layers(layer, rank, bias is not None)
    with torch.no_grad():
        first.weight.copy_((vectors.T @ matrix(layer)).reshape(first.weight.shape))
        second.weight.copy_(vectors.reshape(second.weight.shape))
        if bias is not None:
            assert second.bias is not None
            second.bias.copy_(bias)
    return {"first": first, "second": second}


def _signs(vectors: Tensor) -> Tensor:
    """A vector and its negative are as good: the sign makes the largest number positive."""
    largest = vectors.abs().argmax(0, keepdim=True)
    return torch.where(vectors.gather(0, largest) < 0, -1.0, 1.0).to(vectors.dtype)


def _layers(layer: Narrowable, rank: int, bias: bool) -> tuple[Narrowable, Narrowable]:
    kind: Any = type(layer)
    outputs, inputs = layer.weight.shape[:2]
    if isinstance(layer, nn.Linear):
        made = kind(inputs, rank, bias=False), kind(rank, outputs, bias=bias)
    else:
        first = kind(
            inputs, rank, 1, layer.stride, layer.padding, bias=False, padding_mode=layer.padding_mode
        )
        made = first, kind(rank, outputs, 1, bias=bias)
    return made[0].to(layer.weight.dtype), made[1].to(layer.weight.dtype)


def ranks_under(
    spectra: Mapping[str, Spectrum], costs: Mapping[str, int], whole: Mapping[str, int], most: int
) -> dict[str, int] | None:
    """Ranks by which all these layers have at most `most` weights; a layer that would not become smaller has none. None: out of reach.

    A component costs `costs` weights and brings its share of the layer's energy: all that bring more for each weight than some
    bound are kept, and the bound is the lowest that `most` allows. `whole` are the layers' weights as they are.
    """
    bounds = _bounds(spectra, costs)
    low, high = 0, len(bounds) - 1
    if _weights(_ranks(spectra, costs, whole, bounds[high]), costs, whole) > most:
        return None
    while low < high:  # the first bound, from below, that fits
        middle = (low + high) // 2
        if _weights(_ranks(spectra, costs, whole, bounds[middle]), costs, whole) <= most:
            high = middle
        else:
            low = middle + 1
    return _ranks(spectra, costs, whole, bounds[low])


def least(costs: Mapping[str, int], whole: Mapping[str, int]) -> int:
    """The weights of all layers at rank 1."""
    return sum(min(costs[name], whole[name]) for name in costs)


def _bounds(spectra: Mapping[str, Spectrum], costs: Mapping[str, int]) -> Sequence[float]:
    values = torch.cat([_worth(spectra[name], costs[name]) for name in spectra])
    return [0.0, *torch.unique(values).tolist(), float("inf")]


def _worth(spectrum: Spectrum, cost: int) -> Tensor:
    return spectrum.energies / spectrum.energies.sum().clamp_min(1e-300) / cost


def _ranks(
    spectra: Mapping[str, Spectrum], costs: Mapping[str, int], whole: Mapping[str, int], bound: float
) -> dict[str, int]:
    found = {}
    for name, spectrum in spectra.items():
        rank = max(1, int((_worth(spectrum, costs[name]) > bound).sum()))
        if rank * costs[name] < whole[name]:
            found[name] = rank
    return found


def _weights(ranks: Mapping[str, int], costs: Mapping[str, int], whole: Mapping[str, int]) -> int:
    return sum(ranks[name] * costs[name] if name in ranks else whole[name] for name in costs)
