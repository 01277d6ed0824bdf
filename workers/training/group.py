"""The processes that train one network together, seen from one of them; and the only one where there are no others."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn


class Group(Protocol):
    """All methods but `fill` are called by every process, in the same order."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        ...

    @property
    def world(self) -> int:
        """How many there are."""
        ...

    @property
    def is_main(self) -> bool:
        """Whether this one writes files and tells how it goes."""
        ...

    def wrap(self, step: nn.Module) -> nn.Module:
        """What is called in place of `step` while it trains: its gradients come out as the mean over the processes.

        `step.network` is what is trained; other parameters of `step` help, and are thrown away. `step` returns the loss among
        other things: what the loss depends on gets gradients, whatever else the network computes. Parameters of the network
        may be replaced by shares of them, so optimizers are made afterwards. `step.network` is called by itself to be scored.
        """
        ...

    def accumulating(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """Inside the block, around forward and backward, gradients are only added up here: more of the same step follow."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes of a small tensor, the same in each."""
        ...

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        """The 2-norm of tensors of the network or its gradients, all elements together, the same in each process."""
        ...

    def align(self, network: nn.Module) -> None:
        """Give every process the same buffers (statistics of batch norms), before the network is scored or kept."""
        ...

    def whole(self, tensor: Tensor) -> Tensor:
        """A copy on the CPU, of the whole tensor where this process has a share; an empty one in all processes but the main one."""
        ...

    def fill(self, target: Tensor, value: Tensor) -> None:
        """Put a whole tensor's values into a tensor of which this process may have a share."""
        ...

    def barrier(self) -> None:
        """Wait until all are here."""
        ...


class SingleProcess:
    """One process alone; see `Group`."""

    rank = 0
    world = 1
    is_main = True

    def wrap(self, step: nn.Module) -> nn.Module:
        """The step itself."""
        return step

    def accumulating(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """Nothing else happens to gradients."""
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        """See `Group.norm`."""
        return torch.nn.utils.get_total_norm(tensors)

    def align(self, network: nn.Module) -> None:
        """There are no others."""

    def whole(self, tensor: Tensor) -> Tensor:
        """See `Group.whole`."""
        return tensor.detach().to("cpu", copy=True)

    def fill(self, target: Tensor, value: Tensor) -> None:
        """See `Group.fill`."""
        with torch.no_grad():
            target.copy_(value)

    def barrier(self) -> None:
        """There are no others."""
