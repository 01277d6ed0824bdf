"""The network run on a batch, and what went wrong in words."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from typing import Any

import torch
from torch import Tensor, fx, nn

from app.errors import BurnishError, InvalidDataset, InvalidModel, InvalidParams, OutOfMemory
from app.text import first_line, plain
from workers.torch.model import leaves
from workers.training.phases import UNMEASURED, Phases
from workers.training.task import STAGE, Batch, Task


class Step(nn.Module):
    """Forward and loss in one call, which is what several processes share out: `step(batch) -> (loss, its parts)`."""

    def __init__(self, task: Task, phases: Phases = UNMEASURED):
        super().__init__()
        self.network = task.network
        self.helpers = nn.ParameterList(task.helpers())
        self._task, self._phases = task, phases

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """See `Task.loss`."""
        with self._phases.of("forward"):
            outputs = call(self._task, self.network, batch)
        with self._phases.of("loss"):
            return self._task.loss(outputs, batch)


def call(task: Task, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The network's outputs by name.

    Raises:
        OutOfMemory, InvalidModel: see `explained`.
    """
    with explained(batch):
        found = leaves(network(*batch.inputs))
    return {entry["name"]: value for entry, value in zip(task.outputs, found, strict=True)}


@contextmanager
def explained(batch: Batch) -> Iterator[None]:
    """Say what an error inside the block means for somebody who trains.

    Raises:
        OutOfMemory: the batch is too large.
        InvalidModel: the network does not take it.
    """
    count = len(batch.indices)
    try:
        yield
    except (BurnishError, MemoryError):
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        text = first_line(str(error)) or type(error).__name__
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in text:
            raise OutOfMemory(
                f"{count} samples at once do not fit into memory: {plain(text, 300)}",
                stage=STAGE,
                param="accumulate",
                hint="compute a batch in more parts (`accumulate`), or make `batch_size` smaller",
            ) from error
        if "more than 1 value per channel" in text:
            raise InvalidParams(
                "a batch norm cannot take the statistics of a single value per channel",
                stage=STAGE,
                param="batch_size",
                hint="let each part of a batch hold two samples or more, or set freeze_batch_norm",
            ) from error
        raise InvalidModel(
            f"the network does not run on {count} samples of the data: {plain(text, 400)}",
            stage=STAGE,
            hint="check that samples have the shapes and values that the network takes (token numbers within its table)",
        ) from error


def not_finite(task: Task, batch: Batch, step: int, loss: float) -> BurnishError:
    """Why the loss, or a gradient, of a step (counted from 1) is not finite: the sample, or the first layer that gives such values.

    The network must have the weights that the step began with.
    """
    told = "a gradient is not finite" if isfinite(loss) else f"the loss is {loss}"
    for number, values in enumerate([*batch.inputs, *([] if batch.labels is None else [batch.labels])]):
        if (row := _bad_row(values)) is not None:
            what = f"input {task.inputs[number]['name']!r}" if number < len(batch.inputs) else "the label"
            return InvalidDataset(
                f"{told} at step {step}: {what} of sample {int(batch.indices[row])} holds NaN or infinity",
                stage=STAGE,
                param="inputs.train",
                hint="correct or remove such samples",
            )
    layer = first_not_finite(task.network, batch)
    where = (
        f"; the first layer whose output is not finite is {layer!r}"
        if layer
        else "; each layer's output is finite"
    )
    if step == 1:
        return InvalidModel(
            f"{told} at the first step{where}",
            stage=STAGE,
            node=layer,
            hint="the network overflows on these data before it has learned anything: check their scale, or use precision=fp32",
        )
    return InvalidParams(
        f"training diverged: {told} at step {step}{where}",
        stage=STAGE,
        node=layer,
        param="learning_rate",
        hint="lower learning_rate, set clip_norm, make warmup longer, or use precision=fp32",
    )


def _bad_row(values: Tensor) -> int | None:
    if not values.is_floating_point():
        return None
    bad = ~torch.isfinite(values).flatten(1).all(1) if values.dim() > 1 else ~torch.isfinite(values)
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


@torch.no_grad()
def first_not_finite(network: nn.Module, batch: Batch) -> str | None:
    """The first layer, or call between layers, whose output is not finite on this batch; None where each is."""
    found: list[str] = []

    def look(name: str, value: Any) -> None:
        tensors = [one for one in torch.utils._pytree.tree_leaves(value) if isinstance(one, Tensor)]
        if not found and any(
            not bool(torch.isfinite(one).all()) for one in tensors if one.is_floating_point()
        ):
            found.append(name)

    if isinstance(network, fx.GraphModule):
        _Looking(network, look).run(*batch.inputs)
        return found[0] if found else None
    hooks = [
        module.register_forward_hook(lambda _, __, value, name=name: look(name, value))
        for name, module in network.named_modules()
        if not list(module.children())
    ]
    try:
        network(*batch.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


class _Looking(fx.Interpreter):
    """Runs a graph and shows each value by the name of the layer that made it, or of the node."""

    def __init__(self, network: fx.GraphModule, look: Any):
        super().__init__(network)
        self._look = look

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if node.op.startswith("call"):
            self._look(str(node.target) if node.op == "call_module" else node.name, value)
        return value
