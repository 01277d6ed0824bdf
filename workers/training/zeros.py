"""Weights that pruning set to zero, kept at zero while the network trains.

A weight that is zero and gets no gradient stays zero: momentum, the moments of AdamW and weight decay are all multiples of it or
of its gradients. So gradients are cleared, and nothing has to be mended after a step. Source: Han et al., Learning both Weights
and Connections for Efficient Neural Networks, 2015 (https://arxiv.org/abs/1506.02626), which trains what is left.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import nn

from workers.training.optimizers import trained

LEAST_SHARE = 0.05  # of zeros among a network's weights that tells that it was pruned: trained networks have next to none


def zeros_of(network: nn.Module, keep: bool | Literal["auto"]) -> dict[str, int]:
    """The weights (of two axes and more) whose zeros are to stay, by name: how many. To be called before weights are shared out.

    `auto`: those of a network of which `LEAST_SHARE` is zero; a weight that is zero throughout is one that is about to be
    learned. True: every one that has zeros.
    """
    if keep is False:
        return {}
    held = {name: one for name, one in trained(network).items() if one.dim() > 1}
    found = {name: one.numel() - int(torch.count_nonzero(one)) for name, one in held.items()}
    if keep == "auto":
        found = {name: count for name, count in found.items() if count < held[name].numel()}
        if sum(found.values()) < LEAST_SHARE * sum(held[name].numel() for name in found):
            return {}
    return {name: count for name, count in found.items() if count}


class KeptZeros:
    """The places that stay zero, of the weights in `names`; made after weights are shared out, before they are trained."""

    @torch.no_grad()
    def __init__(self, network: nn.Module, names: Iterable[str]):
        parameters: Mapping[str, nn.Parameter] = trained(network)
        self._masks = [
            (parameters[name], (parameters[name] != 0).to(parameters[name].dtype)) for name in names
        ]

    @torch.no_grad()
    def clear_gradients(self) -> None:
        """Take the gradients away from what stays zero."""
        for parameter, mask in self._masks:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)
