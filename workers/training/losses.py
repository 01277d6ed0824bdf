"""How wrong an output is, by name: a number that training makes smaller. Always computed in float32, the mean over samples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from app.errors import InvalidDataset, SignatureMismatch
from workers.torch.model import TorchModel
from workers.training.task import STAGE

Entry = Mapping[str, Any]  # name, dtype, shape
NO_LABELS = "upload data with an array called `labels`; without labels, `distill` learns from another network"
_PROBABLE = {
    "cross-entropy": frozenset({"softmax"}),
    "binary-cross-entropy": frozenset({"softmax", "sigmoid"}),
}
CLASS_HINT = "number the classes from 0, in the order of the model's output"


@dataclass(frozen=True)
class Loss:
    """A loss of one output. `of_probabilities`: the output is a softmax's or a sigmoid's, not what goes into one."""

    name: str
    output: str
    label_smoothing: float = 0.0
    of_probabilities: bool = False

    def __call__(self, output: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """The mean over the samples of a batch, float32.

        Raises:
            SignatureMismatch: shapes or types of labels and output do not fit.
            InvalidDataset: a label cannot be; the sample is named.
        """
        with torch.autocast(output.device.type, enabled=False):
            found: Tensor = _LOSSES[self.name](self, output.float(), labels, indices)
            return found


def labelled_loss(
    name: str, model: TorchModel, output: str, labels: Entry | None, label_smoothing: float = 0.0
) -> Loss:
    """The loss of one output against labels, {dtype, shape} a sample. `auto` is what such labels are mostly for: see `_auto`.

    Raises:
        InvalidDataset: there are no labels.
    """
    if labels is None:
        raise InvalidDataset(
            "the training data have no labels", stage=STAGE, param="inputs.train", hint=NO_LABELS
        )
    number, entry = next((n, one) for n, one in enumerate(model.outputs) if one["name"] == output)
    chosen = _auto(entry, labels) if name == "auto" else name
    end = last_operator(model.module, number)
    probable = _PROBABLE.get(chosen, frozenset())
    return Loss(chosen, output, label_smoothing, of_probabilities=end in probable)


def _auto(output: Entry, labels: Entry) -> str:
    """Truth values, and integers as many as the output has numbers: binary cross-entropy; other integers: cross-entropy;
    else the mean squared error."""
    kind = labels["dtype"]
    if kind.startswith("bool"):
        return "binary-cross-entropy"
    if not kind.startswith(("int", "uint")):
        return "mse"
    sizes = [size for size in output["shape"][1:] if isinstance(size, int)]
    counted = len(sizes) == len(output["shape"]) - 1
    return "binary-cross-entropy" if counted and prod(sizes) == prod(labels["shape"]) else "cross-entropy"


def last_operator(network: nn.Module, number: int) -> str | None:
    """The operator that an output of a lifted network comes from, as `softmax`; None where that is a layer, or unknown."""
    if not isinstance(network, fx.GraphModule):
        return None
    end = next(node for node in reversed(network.graph.nodes) if node.op == "output")
    nodes = [leaf for leaf in torch.utils._pytree.tree_leaves(end.args) if isinstance(leaf, fx.Node)]
    node = nodes[number]
    schema = getattr(node.target, "_schema", None)
    return None if schema is None else str(schema.name).removeprefix("aten::").removeprefix("_")


def _cross_entropy(loss: Loss, output: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
    """Of classes, or of shares of classes [n, …, C]. Source: Szegedy et al., 2016 (https://arxiv.org/abs/1512.00567) for
    `label_smoothing`."""
    if labels.is_floating_point():
        scores, shares = output, _fitting(loss, output, labels)
        logs = _logs(loss, scores)
        shares = shares * (1 - loss.label_smoothing) + loss.label_smoothing / scores.shape[-1]
        return -(shares * logs).sum(-1).mean()
    scores, classes = _classes_last(loss, output, labels)
    count = scores.shape[-1]
    wrong = (classes < 0) | (classes >= count)
    if bool(wrong.any()):
        row = int(wrong.flatten(1).any(1).nonzero()[0]) if classes.dim() > 1 else int(wrong.nonzero()[0])
        value = int(classes[row][wrong[row]].flatten()[0])
        raise InvalidDataset(
            f"the label of sample {int(indices[row])} is {value}; the output {loss.output!r} has classes 0 to {count - 1}",
            stage=STAGE,
            param="labels",
            hint=CLASS_HINT,
        )
    logs = _logs(loss, scores)
    hit = -logs.gather(-1, classes.unsqueeze(-1)).squeeze(-1)
    return ((1 - loss.label_smoothing) * hit - loss.label_smoothing * logs.mean(-1)).mean()


def _logs(loss: Loss, scores: Tensor) -> Tensor:
    if loss.of_probabilities:
        return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
    return functional.log_softmax(scores, -1)


def _classes_last(loss: Loss, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [n, …, C] and labels [n, …]; classes lie last or on axis 1, as the metric `top1` has it."""
    if output.dim() >= 2:
        if output.dim() == labels.dim() and labels.shape[-1] == 1 and output.shape[-1] > 1:
            labels = labels[..., 0]
        if output.shape[:-1] == labels.shape:
            return output, labels
        moved = output.movedim(1, -1)
        if moved.shape[:-1] == labels.shape:
            return moved, labels
    raise _misfit(
        loss, output, labels, "no axis of the output, last or first, is left for the classes",
        "train the output that holds a score for each class (`output`); labels are class numbers, one a sample or one a position",
    )  # fmt: skip


def _binary_cross_entropy(loss: Loss, output: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
    wanted = _fitting(loss, output, labels)
    wrong = ((wanted < 0) | (wanted > 1)).flatten(1).any(1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InvalidDataset(
            f"a label of sample {int(indices[row])} is not from 0 to 1, which {loss.name} needs",
            stage=STAGE,
            param="labels",
            hint="save 0 or 1 for each element of the output; for one class of several a sample, use cross-entropy",
        )
    wanted = wanted * (1 - loss.label_smoothing) + loss.label_smoothing / 2
    if loss.of_probabilities:
        return functional.binary_cross_entropy(output.clamp(0, 1), wanted)
    return functional.binary_cross_entropy_with_logits(output, wanted)


def _by(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Loss, Tensor, Tensor, Tensor], Tensor]:
    return lambda loss, output, labels, indices: function(output, _fitting(loss, output, labels))


def _fitting(loss: Loss, output: Tensor, labels: Tensor) -> Tensor:
    """Labels as float32 of the output's shape; an axis of length 1 at the end may be missing in one of them.

    Raises:
        SignatureMismatch: they have another shape.
    """
    wanted = labels.float()
    if wanted.shape == output.shape:
        return wanted
    if wanted.numel() == output.numel() and _trimmed(wanted) == _trimmed(output):
        return wanted.reshape(output.shape)
    raise _misfit(
        loss, output, labels, f"{loss.name} compares numbers of one shape",
        "name the output that the labels are for (`output`), or another `loss`: cross-entropy takes class numbers",
    )  # fmt: skip


def _trimmed(tensor: Tensor) -> list[int]:
    sizes = list(tensor.shape)
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    return sizes


def _misfit(loss: Loss, output: Tensor, labels: Tensor, why: str, hint: str) -> SignatureMismatch:
    return SignatureMismatch(
        f"the output {loss.output!r} has the shape {list(output.shape[1:])} a sample, the labels {list(labels.shape[1:])}: {why}",
        stage=STAGE,
        param="output",
        hint=hint,
    )


_LOSSES: dict[str, Callable[[Loss, Tensor, Tensor, Tensor], Tensor]] = {
    "cross-entropy": _cross_entropy,
    "binary-cross-entropy": _binary_cross_entropy,
    "mse": _by(functional.mse_loss),
    "l1": _by(functional.l1_loss),
    "smooth-l1": _by(functional.smooth_l1_loss),
}
LOSSES = frozenset(_LOSSES)
