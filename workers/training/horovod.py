"""Several processes that train one network by Horovod's collectives, seen from one of them.

torchrun's agent starts the processes, as it starts others. They meet at a key-value server of Horovod's in the first of them,
whose port the agent's store passes on.

Source: Sergeev and Del Balso, Horovod: fast and easy distributed deep learning in TensorFlow, 2018
(https://arxiv.org/abs/1802.05799); https://horovod.readthedocs.io/en/stable/pytorch.html
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Thread
from typing import Any

import horovod.torch as hvd
import torch
from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from workers.nodes.addresses import address
from workers.training.group import Replicated, average_buffers
from workers.training.processes import COLLECTIVE_SECONDS, LOOPBACK
from workers.training.task import device_of

PORT = "horovod"  # its key in the agent's store


class Horovod(Replicated):
    """One of several processes, each with the whole network; see `Group`."""

    def __init__(self, device: torch.device):
        self.device = device
        self.rank: int = hvd.rank()
        self.world: int = hvd.size()

    def wrap(self, step: nn.Module) -> nn.Module:
        """See `Group.wrap`."""
        return Averaged(step)

    def accumulating(self, wrapped: nn.Module) -> AbstractContextManager[None]:
        """See `Group.accumulating`."""
        assert isinstance(wrapped, Averaged)
        return wrapped.no_sync()

    def sum(self, values: Tensor) -> Tensor:
        """See `Group.sum`."""
        return summed(values.detach().to(self.device)).to(values.device)

    def align(self, network: nn.Module) -> None:
        """See `Group.align`."""
        average_buffers(self, network)

    def barrier(self) -> None:
        """See `Group.barrier`."""
        hvd.barrier()


class Averaged(nn.Module):
    """A step whose gradients are averaged while backward goes on: each as soon as every process has it."""

    def __init__(self, step: nn.Module):
        super().__init__()
        self.step = step
        self._trained = [one for one in step.parameters() if one.requires_grad]
        self._numbers = {id(one): number for number, one in enumerate(self._trained)}
        self._begun: dict[int, Any] = {}
        self._exchanging = True
        hvd.broadcast_parameters(dict([*step.named_parameters(), *step.named_buffers()]), root_rank=0)
        for parameter in self._trained:
            parameter.register_post_accumulate_grad_hook(self._begin)  # type: ignore[no-untyped-call]

    def forward(self, *inputs: Any) -> Any:
        """What the step returns."""
        return self.step(*inputs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """As `DistributedDataParallel.no_sync`."""
        self._exchanging = False
        try:
            yield
        finally:
            self._exchanging = True

    def _begin(self, parameter: Tensor) -> None:
        if not self._exchanging:
            return
        if not self._begun:  # the engine calls it once this backward is through, as DDP and FSDP2 let it
            torch.autograd.Variable._execution_engine.queue_callback(self._finish)
        self._average(self._numbers[id(parameter)])

    def _average(self, number: int) -> None:
        gradient = self._trained[number].grad
        self._begun[number] = hvd.allreduce_async_(gradient, name=f"gradient.{number}", op=hvd.Average)

    def _finish(self) -> None:
        """Wait for all gradients; where another process has one that this has not, this one adds nothing to the mean."""
        own = torch.tensor([one.grad is not None for one in self._trained], dtype=torch.int32)
        for number, count in enumerate(summed(own).tolist()):
            if count and number not in self._begun:
                parameter = self._trained[number]
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                self._average(number)
        for handle in self._begun.values():
            hvd.synchronize(handle)
        self._begun.clear()


def summed(values: Tensor) -> Tensor:
    """A new tensor, the sum over the processes, in the order of calls."""
    total: Tensor = hvd.allreduce(values, op=hvd.Sum)
    return total


@contextmanager
def joined(device: str) -> Iterator[Horovod]:
    """Join the group that the environment names (torchrun's RANK, WORLD_SIZE, MASTER_ADDR …), and leave it in order at the end."""
    own = device_of(device, int(os.environ["LOCAL_RANK"]))
    if own.type == "cuda":
        torch.cuda.set_device(own)
    with _meeting():
        hvd.init()
        yield Horovod(own)
        hvd.shutdown()  # not after an error: it waits for others that wait for us


@contextmanager
def _meeting() -> Iterator[None]:
    """The first process serves where all meet; it is told to Horovod by the environment."""
    store, rank, _ = next(rendezvous("env://"))
    host = os.environ["MASTER_ADDR"]
    server = None
    if rank == 0:
        server = RendezvousHTTPServer((host, 0), RendezvousHandler, verbose=0)
        Thread(target=server.serve_forever, daemon=True).start()
        store.set(PORT, str(server.server_address[1]))
    os.environ.update(
        HOROVOD_CONTROLLER="gloo",
        HOROVOD_CPU_OPERATIONS="gloo",
        HOROVOD_GLOO_IFACE=LOOPBACK,
        HOROVOD_GLOO_TIMEOUT_SECONDS=str(round(COLLECTIVE_SECONDS)),
        HOROVOD_GLOO_RENDEZVOUS_ADDR=host,
        HOROVOD_GLOO_RENDEZVOUS_PORT=store.get(PORT).decode(),
        HOROVOD_HOSTNAME=address(int(os.environ["GROUP_RANK"])),
        HOROVOD_RANK=os.environ["RANK"],
        HOROVOD_SIZE=os.environ["WORLD_SIZE"],
        HOROVOD_LOCAL_RANK=os.environ["LOCAL_RANK"],
        HOROVOD_LOCAL_SIZE=os.environ["LOCAL_WORLD_SIZE"],
        HOROVOD_CROSS_RANK=os.environ["GROUP_RANK"],
        HOROVOD_CROSS_SIZE=os.environ["GROUP_WORLD_SIZE"],
    )
    yield
    if server is not None:
        server.shutdown()
        server.server_close()
