"""How far what a student says is from what its teacher says.

Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015 (https://arxiv.org/abs/1503.02531).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from app.errors import SignatureMismatch
from workers.torch.model import TorchModel
from workers.training.losses import labelled_loss, last_operator
from workers.training.task import STAGE

_OF_LABELS = {"cross-entropy": "kl", "binary-cross-entropy": "binary-kl", "mse": "mse"}
_SCORES = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.pooling._AdaptiveAvgPoolNd)
_SHAPING = {
    "view",
    "reshape",
    "flatten",
    "squeeze",
    "mean",
    "linear",
    "addmm",
    "convolution",
    "unsqueeze",
    "add",
}


@dataclass(frozen=True)
class SoftLoss:
    """`kind` is kl, binary-kl or mse; classes lie on `axis`. `student` and `teacher` name the operators that outputs come from."""

    kind: str
    temperature: float
    axis: int
    student: str | None
    teacher: str | None

    def __call__(self, found: Tensor, wanted: Tensor) -> Tensor:
        """The mean over samples, in float32; divergences times T², so that gradients do not depend on it.

        Raises:
            SignatureMismatch: the two have other shapes.
        """
        if found.shape != wanted.shape:
            raise SignatureMismatch(
                f"the network that learns gives {list(found.shape[1:])} a sample, the teacher {list(wanted.shape[1:])}",
                stage=STAGE,
                param="inputs.teacher",
                hint="name a teacher for the same task",
            )
        with torch.autocast(found.device.type, enabled=False):
            return self._loss(found.float(), wanted.detach().float())

    def _loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        if self.kind == "mse":
            return functional.mse_loss(found, wanted)
        square = self.temperature**2
        own = _scores(found, self.student) / self.temperature
        other = _scores(wanted, self.teacher) / self.temperature
        if self.kind == "binary-kl":
            shares = torch.sigmoid(other)
            cross = functional.binary_cross_entropy_with_logits(own, shares)
            return square * (cross - functional.binary_cross_entropy_with_logits(other, shares))
        logs, targets = functional.log_softmax(own, self.axis), functional.log_softmax(other, self.axis)
        return square * (targets.exp() * (targets - logs)).sum(self.axis).mean()


def soft_loss(
    kind: str,
    temperature: float,
    models: tuple[TorchModel, TorchModel],
    numbers: tuple[int, int],
    labels: Mapping[str, Any] | None,
) -> SoftLoss:
    """The loss between outputs of the student and the teacher, by their numbers; `auto`: see `DistillParams.soft_loss`."""
    entry = models[0].outputs[numbers[0]]
    ends = tuple(last_operator(model.module, number) for model, number in zip(models, numbers, strict=True))
    axis = _axis(entry, labels)
    if kind == "auto":
        kind = _kind(models[0], numbers[0], labels)
    return SoftLoss(kind, temperature, axis, *ends)


def _kind(model: TorchModel, number: int, labels: Mapping[str, Any] | None) -> str:
    entry, end = model.outputs[number], last_operator(model.module, number)
    if labels is not None:
        return _OF_LABELS[labelled_loss("auto", model, entry["name"], labels).name]
    if end == "sigmoid":
        return "binary-kl"
    several = len(entry["shape"]) == 2 and entry["shape"][1] != 1
    return "kl" if end == "softmax" or (several and _is_row_of_scores(model.module, number)) else "mse"


def _axis(entry: Mapping[str, Any], labels: Mapping[str, Any] | None) -> int:
    """Where classes lie: the axis that labels lack; without labels the first of pictures, else the last."""
    rank = len(entry["shape"])
    if labels is not None and len(labels["shape"]) == rank - 2 and rank > 2:
        sizes = [size if isinstance(size, int) else None for size in entry["shape"]]
        return -1 if _fits(sizes[1:-1], labels["shape"]) else 1
    return 1 if rank >= 4 else -1


def _fits(sizes: list[int | None], shape: list[int]) -> bool:
    return all(size is None or size == own for size, own in zip(sizes, shape, strict=True))


def _is_row_of_scores(network: nn.Module, number: int) -> bool:
    """Whether an output comes straight from a linear layer, a convolution or a pooling."""
    if not isinstance(network, fx.GraphModule):
        return True
    end = next(node for node in reversed(network.graph.nodes) if node.op == "output")
    node = [leaf for leaf in torch.utils._pytree.tree_leaves(end.args) if isinstance(leaf, fx.Node)][number]
    while node.op == "call_function":
        name = (
            str(getattr(getattr(node.target, "_schema", None), "name", "")).removeprefix("aten::").lstrip("_")
        )
        inner = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if name not in _SHAPING or len(inner) != 1:
            return False
        node = inner[0]
    return node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), _SCORES)


def _scores(values: Tensor, end: str | None) -> Tensor:
    """What goes into a softmax or a sigmoid, where `values` came out of one."""
    if end == "softmax":
        return values.clamp_min(torch.finfo(values.dtype).tiny).log()
    if end == "sigmoid":
        return torch.logit(values, eps=1e-7)
    return values
