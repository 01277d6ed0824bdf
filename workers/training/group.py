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


class Replicated:
    """What a process does by itself that has the whole network; see `Group`."""

    rank: int

    @property
    def is_main(self) -> bool:
        """Whether it is the first."""
        return self.rank == 0

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        """See `Group.norm`."""
        return torch.nn.utils.get_total_norm(tensors)

    def whole(self, tensor: Tensor) -> Tensor:
        """See `Group.whole`."""
        return tensor.detach().to("cpu", copy=True) if self.is_main else torch.empty(0)

    def fill(self, target: Tensor, value: Tensor) -> None:
        """See `Group.fill`."""
        with torch.no_grad():
            target.copy_(value)


class SingleProcess(Replicated):
    """One process alone; see `Group`."""

    rank = 0
    world = 1

    def wrap(self, step: nn.Module) -> nn.Module:
        """The step itself."""
        return step

    def accumulating(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """Nothing else happens to gradients."""
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def align(self, network: nn.Module) -> None:
        """There are no others."""

    def barrier(self) -> None:
        """There are no others."""


def average_buffers(group: Group, network: nn.Module) -> None:
    """Give every process the means of the network's buffers, in float64: what is the same everywhere stays the same to the bit.

    Each process's batch norms see its own share of a batch: `SyncBatchNorm` needs a GPU (docs/decisions/training.md).
    """
    numbers = [
        buffer
        for buffer in network.buffers()
        if buffer.is_floating_point() and buffer.dtype != torch.float64 and buffer.numel()
    ]
    if not numbers:
        return
    flat = torch.cat([buffer.detach().reshape(-1).to(torch.float64) for buffer in numbers])
    flat = group.sum(flat) / group.world
    with torch.no_grad():
        for buffer, mean in zip(numbers, torch.split(flat, [b.numel() for b in numbers]), strict=True):
            buffer.copy_(mean.view(buffer.shape))
