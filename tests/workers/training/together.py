"""One of several processes that does one step as `Group` has it, in each strategy of a backend: FOLDER gets what came of it.

    python -m torch.distributed.run --standalone --nproc-per-node 2 together.py FOLDER torchrun|horovod

With SingleProcess (`one_step` called in a test) it is what the others are held against.
"""

import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.workers.training.arrays import digits
from workers.training.group import Group
from workers.training.network import open_network
from workers.training.processes import Processes, joined
from workers.training.sharded import UNIT_ELEMENTS

BATCH, PARTS = 48, 2
CONSTANT = [float("-inf"), torch.finfo(torch.float32).max, 0.1]


def wide() -> nn.Module:
    """Layers that are large enough to be fetched by themselves, and no batch norm."""
    torch.manual_seed(1)
    hidden = UNIT_ELEMENTS // 64 + 64
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


class Step(nn.Module):
    """A network, and a projection of its outputs that helps; one of its outputs is of no use to the loss."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.unused = nn.Linear(10, 3)
        generator = torch.Generator().manual_seed(5)
        self.projection = nn.Parameter(torch.randn(10, 10, generator=generator) / 4)

    def forward(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, dict[str, float]]:
        images, labels = batch
        logits = self.network(images)
        loss = nn.functional.cross_entropy(logits @ self.projection, labels)
        return loss, self.unused(logits.detach()), {"cross_entropy": float(loss.detach())}


def one_step(program: Path, group: Group) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Gradients of one batch, and the weights after one step; and what else the group says."""
    torch.manual_seed(group.rank)  # others would begin with other weights, if nobody saw to it
    network = open_network(program).module
    of_rank = torch.zeros(1)
    network.register_buffer("of_rank", of_rank)
    network.register_buffer("constant", torch.tensor(CONSTANT))
    step = Step(network)
    wrapped = group.wrap(step)
    of_rank.fill_(1.0 + group.rank)  # as running statistics go their own ways
    network.eval()  # batch norms are frozen
    optimizer = torch.optim.AdamW([*network.parameters(), step.projection], lr=1e-2)
    images, labels = (torch.from_numpy(values) for values in digits(BATCH))
    share = BATCH // group.world
    own = torch.arange(share * group.rank, share * (group.rank + 1))
    losses = []
    for number, rows in enumerate(own.chunk(PARTS)):
        with nullcontext() if number == PARTS - 1 else group.accumulating(wrapped):
            loss, *_ = wrapped((images[rows], labels[rows]))
            (loss / PARTS).backward()
        losses.append(float(loss.detach()) / PARTS)
    parameters = {**dict(network.named_parameters()), "projection": step.projection}
    gradients = {name: one.grad for name, one in parameters.items() if one.grad is not None}
    found = {f"gradient/{name}": one for name, one in wholes(group, gradients).items()}
    norm = float(group.norm(list(gradients.values())))
    optimizer.step()
    group.align(network)
    found |= {f"after/{name}": one for name, one in wholes(group, dict(network.state_dict())).items()}
    state = {name: optimizer.state[one]["exp_avg_sq"] for name, one in parameters.items()}
    found |= {f"state/{name}": one for name, one in wholes(group, state).items()}
    held = sum(_local(one).numel() for one in network.parameters())
    for name, parameter in network.named_parameters():
        group.fill(parameter, torch.full(parameter.shape, float(len(name))))
    found |= {f"filled/{name}": one for name, one in wholes(group, dict(network.named_parameters())).items()}
    loss = group.sum(torch.tensor([sum(losses)], dtype=torch.float64)) / group.world
    return found, {"norm": norm, "loss": float(loss), "held": held, "unused": step.unused.weight.grad is None}


def wholes(group: Group, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each as a whole, in the main process."""
    return {name: group.whole(tensor) for name, tensor in tensors.items()}


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def main(folder: Path, backend: str) -> None:
    torch.set_num_threads(1)
    if backend == "horovod":
        from workers.training import horovod

        with horovod.joined("cpu") as group:
            step_of_each(folder, backend, group)
    else:
        with joined("cpu", "ddp") as group:
            for strategy in ("ddp", "fsdp"):
                step_of_each(folder, strategy, Processes(group.device, sharded=strategy == "fsdp"))


def step_of_each(folder: Path, name: str, group: Group) -> None:
    """Of each network in the folder."""
    for program in sorted(folder.glob("*/model.pt2")):
        tensors, facts = one_step(program, group)
        if group.is_main:
            save_file(tensors, folder / f"{name}-{program.parent.name}.safetensors")
            (folder / f"{name}-{program.parent.name}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
