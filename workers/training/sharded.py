"""A network whose weights lie in shares on several processes (FSDP2: `torch.distributed.fsdp.fully_shard`).

Source: Zhao et al., PyTorch FSDP, 2023 (https://arxiv.org/abs/2304.11277);
https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, fx, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

UNIT_ELEMENTS = 100_000  # layers with fewer weights are fetched together


class Sharded(nn.Module):
    """A step whose network's weights are spread over the processes, in place; its other parameters stay whole."""

    def __init__(self, step: nn.Module):
        super().__init__()
        assert isinstance(step.network, nn.Module)
        with torch.no_grad():
            for tensor in (*step.parameters(), *step.buffers()):
                dist.broadcast(tensor.detach(), src=0)
        for layer in units(step.network):
            fully_shard(layer)
        # the outermost would else keep whole weights after a forward that no backward follows, as when it is scored
        self.network = fully_shard(step.network, reshard_after_forward=True)
        self.step = step
        self._exchanging = True
        for parameter in step.parameters():
            if not isinstance(parameter, DTensor):
                parameter.register_post_accumulate_grad_hook(self._average)  # type: ignore[no-untyped-call]

    def forward(self, *inputs: Any) -> Any:
        """What the step returns."""
        return self.step(*inputs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """As `DistributedDataParallel.no_sync`."""
        self._exchange(False)
        try:
            yield
        finally:
            self._exchange(True)

    def _exchange(self, now: bool) -> None:
        assert isinstance(self.network, FSDPModule)
        self.network.set_requires_gradient_sync(now)
        self.network.set_is_last_backward(now)
        self._exchanging = now

    def _average(self, parameter: Tensor) -> None:
        if self._exchanging and parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of shares and whole tensors together."""
    shares = [tensor for tensor in tensors if isinstance(tensor, DTensor)]
    wholes = [tensor for tensor in tensors if not isinstance(tensor, DTensor)]
    parts = [full(nn.utils.get_total_norm(part)) for part in (shares, wholes) if part]
    return torch.linalg.vector_norm(torch.stack(parts)) if parts else torch.zeros(())


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(whole: Tensor, target: Tensor) -> Tensor:
    """A tensor that every process has as a whole, laid out as `target` is."""
    held = whole.to(target.device)
    if not isinstance(target, DTensor):
        return held
    return distribute_tensor(held, target.device_mesh, target.placements, src_data_rank=None)


def units(network: nn.Module) -> list[nn.Module]:
    """Large layers whose weights nobody else reads: they are fetched when the layer is called, and let go after it."""
    graphs = [module for module in network.modules() if isinstance(module, fx.GraphModule)]
    called = [
        graph.get_submodule(str(node.target))
        for graph in graphs
        for node in graph.graph.nodes
        if node.op == "call_module"
    ]
    read = {
        id(graph.get_parameter(str(node.target)))
        for graph in graphs
        for node in graph.graph.nodes
        if node.op == "get_attr" and _is_parameter(graph, str(node.target))
    }
    owners = Counter(
        id(parameter) for module in network.modules() for parameter in module.parameters(recurse=False)
    )

    def alone(layer: nn.Module) -> bool:
        own = list(layer.parameters())
        return (
            type(layer).__module__.startswith("torch.nn.modules.")
            and not list(layer.children())
            and sum(parameter.numel() for parameter in own) >= UNIT_ELEMENTS
            and all(owners[id(parameter)] == 1 and id(parameter) not in read for parameter in own)
        )

    return [layer for layer in dict.fromkeys(called) if alone(layer)]


def _is_parameter(graph: nn.Module, name: str) -> bool:
    try:
        graph.get_parameter(name)
    except AttributeError:
        return False
    return True
