"""The optimizers by name. Norms and biases get no weight decay.

Sources: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019 (https://arxiv.org/abs/1711.05101); He et al.,
Bag of Tricks for Image Classification, 2019, 3.1 (https://arxiv.org/abs/1812.01187).
"""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from app.catalog.pass_params.training import TrainingParams


def optimizer_of(
    params: TrainingParams, network: nn.Module, helpers: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov's momentum, over all that is trained: `trained(network)` and the helpers."""
    given = [*trained(network).values(), *helpers]
    groups = [
        {"params": [one for one in given if one.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [one for one in given if one.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if params.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=params.learning_rate, momentum=params.momentum, nesterov=params.momentum > 0
        )
    return torch.optim.AdamW(groups, lr=params.learning_rate)


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that get gradients, by name; one that has several names once."""
    return {name: one for name, one in network.named_parameters() if one.requires_grad}


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def gradients(parameters: Iterable[nn.Parameter]) -> list[torch.Tensor]:
    """What there is of gradients."""
    return [one.grad for one in parameters if one.grad is not None]
