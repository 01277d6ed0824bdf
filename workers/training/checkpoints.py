"""A training half done, as a folder of two files without code in them: `tensors.safetensors` and `state.json`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from torch import Tensor, nn

from workers.training.averaging import Average
from workers.training.group import Group
from workers.training.optimizers import trained
from workers.training.weights import fill, save_tensors, state_of, stored

TENSORS, STATE, FOLDER = "tensors.safetensors", "state.json", "checkpoints"
KEPT = 1  # folders: what was told of is kept elsewhere


@dataclass
class Trained:
    """All tensors that go on from step to step. `best` is the network's state when it was scored best."""

    network: nn.Module
    helpers: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: Average | None
    best: dict[str, Tensor] = field(default_factory=dict)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer holds, by name."""
        return {
            **{f"network/{name}": one for name, one in trained(self.network).items()},
            **{f"helpers/{number}": one for number, one in enumerate(self.helpers)},
        }

    def remember(self) -> None:
        """The network's weights are the best so far."""
        self.best = {name: one.detach().clone() for name, one in state_of(self.network).items()}

    @torch.no_grad()
    def leave_best(self) -> None:
        """Give the network its best weights."""
        for name, tensor in state_of(self.network).items():
            tensor.copy_(self.best[name])

    def tensors(self) -> dict[str, Tensor]:
        """All of them, by name."""
        found = {f"network/{name}": one for name, one in state_of(self.network).items()}
        found |= {f"helpers/{number}": one.detach() for number, one in enumerate(self.helpers)}
        for name, parameter in self.parameters().items():
            for key, value in self.optimizer.state[parameter].items():
                if isinstance(value, Tensor):
                    found[f"optimizer/{name}/{key}"] = value
        if self.average is not None:
            found |= {f"average/{name}": one for name, one in self.average.state.items()}
        return found | {f"best/{name}": one for name, one in self.best.items()}


def keep(
    held: Trained,
    state: Mapping[str, Any],
    out: Path,
    number: int,
    group: Group,
    tell: Callable[[Path], None],
) -> None:
    """Write checkpoint `number` under `out` and tell of it; old ones go. Every process calls it, the main one writes."""
    folder = out / FOLDER / f"{number:06d}"
    if group.is_main:
        folder.mkdir(parents=True)
    save_tensors(held.tensors(), folder / TENSORS, group)
    if not group.is_main:
        return
    (folder / STATE).write_text(json.dumps(dict(state), allow_nan=False))
    tell(folder)
    for old in sorted(folder.parent.iterdir())[:-KEPT]:
        rmtree(old)


def restore(held: Trained, folder: Path, group: Group) -> dict[str, Any]:
    """Go on from a checkpoint of the same training; its state."""
    with stored(folder / TENSORS) as tensors:
        fill(held.network, tensors.below("network/"), group)
        for number, helper in enumerate(held.helpers):
            group.fill(helper, tensors[f"helpers/{number}"])
        for name, parameter in held.parameters().items():
            for key, value in tensors.below(f"optimizer/{name}/").items():
                held.optimizer.state[parameter][key] = _like(parameter, value, group)
        if held.average is not None:
            for name, value in tensors.below("average/").items():
                group.fill(held.average.state[name], value)
        if best := tensors.below("best/"):
            held.remember()
            for name, value in best.items():
                group.fill(held.best[name], value)
    state: dict[str, Any] = json.loads((folder / STATE).read_text())
    return state


def _like(parameter: nn.Parameter, value: Tensor, group: Group) -> Tensor:
    """A state of a parameter's shape lies as the parameter does; others, as the number of steps, stay on the CPU."""
    if value.shape != parameter.shape:
        return value
    target = torch.zeros_like(parameter)
    group.fill(target, value)
    return target
