"""The exponential moving average of a network: smoother than its last weights, and mostly better.

Source: Polyak and Juditsky, 1992; Tarvainen and Valpola, Mean teachers, 2017 (https://arxiv.org/abs/1703.01780). The average is
quicker at first, min(decay, (1 + n) / (10 + n)) after n steps, as
https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage has it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from workers.training.weights import state_of


class Average:
    """The average of weights and of buffers that are floats (statistics of batch norms); other buffers as they are."""

    def __init__(self, network: nn.Module, decay: float):
        self._network = network
        self._decay = decay
        self.steps = 0
        self.state = {name: tensor.detach().clone() for name, tensor in state_of(network).items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, tensor in state_of(self._network).items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor.detach(), 1 - decay)
            else:
                self.state[name].copy_(tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block the network has the average for weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def leave(self) -> None:
        """Give the network the average for good."""
        for name, tensor in state_of(self._network).items():
            tensor.copy_(self.state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, tensor in state_of(self._network).items():
            held: Tensor = tensor.detach().clone()
            tensor.copy_(self.state[name])
            self.state[name].copy_(held)
