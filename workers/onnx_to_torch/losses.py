"""Losses that a graph for training ends in."""

import torch
from torch import Tensor
from torch.nn import functional as nnf

from workers.onnx_to_torch.registry import operator

_NONE = (
    -100
)  # PyTorch's class that counts for nothing; no class of ONNX's is negative unless it is ignored too


@operator("NegativeLogLikelihoodLoss")
def negative_log_likelihood(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = _NONE,
    reduction: str = "mean",
) -> Tensor:
    return nnf.nll_loss(x, target.long(), weight, ignore_index=ignore_index, reduction=reduction)


@operator("SoftmaxCrossEntropyLoss", several=True)
def softmax_cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = _NONE,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """The loss, and the logarithms of the classes' shares."""
    shares = torch.log_softmax(x, 1)
    return negative_log_likelihood(
        shares, target, weight, ignore_index=ignore_index, reduction=reduction
    ), shares
