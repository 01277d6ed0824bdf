"""Several processes that train one network, seen from one of them: gloo on processors, NCCL on GPUs (`torch.distributed`)."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from app.errors import InvalidParams
from workers.training import sharded
from workers.training.group import average_buffers
from workers.training.task import device_of

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
COLLECTIVE_SECONDS = 1800.0  # one that keeps a checkpoint lets the others wait


class Processes:
    """One of several processes; see `Group`. `sharded`: it holds a share of the network's weights (`fsdp`), not all (`ddp`)."""

    def __init__(self, device: torch.device, *, sharded: bool):
        self.device = device
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        self.is_main = self.rank == 0
        self._sharded = sharded

    def wrap(self, step: nn.Module) -> nn.Module:
        """See `Group.wrap`."""
        if self._sharded:
            return sharded.Sharded(step)
        return DistributedDataParallel(
            step,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            forward_sync_buffers=False,  # see `align`
            find_unused_parameters=True,
        )

    def accumulating(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """See `Group.accumulating`."""
        assert isinstance(wrapped, DistributedDataParallel | sharded.Sharded)
        found: AbstractContextManager[None] = wrapped.no_sync()
        return found

    def sum(self, values: Tensor) -> Tensor:
        """See `Group.sum`."""
        total = values.detach().to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        """See `Group.norm`."""
        return sharded.norm(tensors)

    def align(self, network: nn.Module) -> None:
        """See `Group.align`."""
        average_buffers(self, network)

    def whole(self, tensor: Tensor) -> Tensor:
        """See `Group.whole`."""
        value = sharded.full(tensor.detach())
        return value.to("cpu", copy=True) if self.is_main else torch.empty(0)

    def fill(self, target: Tensor, value: Tensor) -> None:
        """See `Group.fill`."""
        with torch.no_grad():
            target.copy_(sharded.like(value, target))

    def barrier(self) -> None:
        """See `Group.barrier`."""
        dist.barrier()


@contextmanager
def joined(device: str, strategy: str) -> Iterator[Processes]:
    """Join the group that the environment names (torchrun's RANK, WORLD_SIZE, MASTER_ADDR …), and leave it in order at the end.

    Raises:
        InvalidParams: this PyTorch was built without what the group needs.
    """
    own = device_of(device, int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if own.type == "cuda" else "gloo"
    if not dist.is_backend_available(backend):
        raise InvalidParams(
            f"this worker's PyTorch has no {backend}, by which several processes train on {own.type}",
            param="distributed.processes",
            hint="ask for one process, or install a PyTorch with it",
        )
    options: dict[str, Any] = {}
    if own.type == "cuda":
        torch.cuda.set_device(own)
        options["device_id"] = own
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)  # the host's name may lead nowhere in a sandbox
    dist.init_process_group(backend, timeout=timedelta(seconds=COLLECTIVE_SECONDS), **options)
    yield Processes(own, sharded=strategy == "fsdp")
    dist.destroy_process_group()  # not after an error: it may wait for others that wait for us
