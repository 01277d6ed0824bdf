"""What each surgery pass could save at a layer, told by its weights' shape alone: arithmetic, without a trial.

FLOPs are those of the layer's own count, two for a multiply-add: 2 × places × weights, where `places` is how often the whole
weight is applied for a sample (output positions of a convolution, rows of a product).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

GROUP = 4  # of weights along a sum, of which 2:4 sparsity keeps two


@dataclass(frozen=True)
class Weight:
    """A layer's weight: [outputs, inputs of a group, *kernel], what `groups` it has, and whether it is a convolution's."""

    shape: tuple[int, ...]
    convolution: bool
    groups: int = 1
    bias: int = 0  # elements


def savings(weight: Weight, flops: int) -> dict[str, dict[str, Any]]:
    """By pass: what is left of FLOPs and parameters, or up to where it saves. Passes that do nothing for the layer are left out.

    `depthwise-separable`: `flops` and `parameters` of the two convolutions. `low-rank`: `break_even_rank`, at which the two
    factors are as large as the layer; every lower rank saves. `prune-weights`: how many `weights` may become zero, and whether
    they fit 2:4 (`two_of_four`).
    """
    found: dict[str, dict[str, Any]] = {}
    outputs, inputs, *kernel = weight.shape
    size, spread = prod(weight.shape), prod(kernel)
    if not size:
        return found
    places = flops // (2 * size)
    if weight.convolution and spread > 1 and weight.groups == 1 and inputs > 1:
        left = inputs * spread + inputs * outputs
        found["depthwise-separable"] = {"flops": 2 * places * left, "parameters": left + weight.bias}
    rank = outputs * inputs // (outputs + inputs)
    if spread == 1 and weight.groups == 1 and rank > 1:
        found["low-rank"] = {"break_even_rank": rank}
    found["prune-weights"] = {"weights": size, "two_of_four": fits_groups(weight.shape, GROUP)}
    return found


def fits_groups(shape: Sequence[int], group: int) -> bool:
    """Whether the inputs that an output sums over, kernel aside, come in whole groups: [outputs, inputs, *kernel]."""
    return len(shape) > 1 and shape[1] % group == 0
