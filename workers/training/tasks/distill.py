"""The task of the pass `distill`: what a teacher answers, beside labels where there are any."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from app.catalog.pass_params.distill import DistillParams
from app.errors import InvalidDataset, SignatureMismatch
from workers.torch.model import TorchModel
from workers.training.feature_pairs import pairs_of
from workers.training.features import Features
from workers.training.losses import Loss, labelled_loss
from workers.training.network import open_network
from workers.training.rank import output_of
from workers.training.soft_losses import SoftLoss, soft_loss
from workers.training.task import STAGE, Batch, TrainingJob
from workers.training.teachers import Teacher, open_teacher, output_of_teacher


@dataclass(frozen=True)
class Taught:
    """An output of the student, the number of the teacher's that it is held against, and how."""

    output: str
    teacher: int
    soft: SoftLoss


class Distill:
    """See `task.Task`. `hard` is the loss against labels, None where there are none or they weigh nothing."""

    def __init__(
        self,
        model: TorchModel,
        teacher: Teacher,
        taught: Sequence[Taught],
        hard: Loss | None,
        features: Features | None,
        params: DistillParams,
    ):
        self.network: nn.Module = model.module
        self.inputs: Sequence[Mapping[str, Any]] = model.inputs
        self.outputs: Sequence[Mapping[str, Any]] = model.outputs
        self._teacher, self._taught, self._hard, self._features = teacher, taught, hard, features
        self._params = params

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """See `Task.loss`. Parts: `soft`, and `hard` and `features` where there are such, each before its weight."""
        answers = self._teacher(batch)
        soft = [one.soft(outputs[one.output], answers[one.teacher]) for one in self._taught]
        parts = {"soft": torch.stack(soft).mean()}
        total = parts["soft"]
        if self._hard is not None and batch.labels is not None:
            weight = self._params.hard_weight
            parts["hard"] = self._hard(outputs[self._hard.output], batch.labels, batch.indices)
            total = (1 - weight) * parts["soft"] + weight * parts["hard"]
        if self._features is not None:
            with torch.autocast(total.device.type, enabled=False):
                parts["features"] = self._features.error()
            total = total + self._params.feature_weight * parts["features"]
        return total, {name: float(part.detach()) for name, part in parts.items()}

    def helpers(self) -> Iterable[nn.Parameter]:
        """The maps of features."""
        return () if self._features is None else self._features.parameters()

    def before_step(self, step: int, steps: int) -> None:
        """Nothing changes."""


def build(job: TrainingJob, device: torch.device) -> Distill:
    """The network of the job's program and its teacher, on the device.

    Raises:
        InvalidDataset: labels alone are to count, and there are none.
        InvalidParams, SignatureMismatch, InvalidModel, UnsupportedOperator: see `open_network`, `open_teacher`, `taught_of`,
            `pairs_of`.
    """
    params = DistillParams.model_validate(job.params)
    assert job.teacher is not None
    model = open_network(job.program)
    output = output_of(params, model.outputs)
    teacher = open_teacher(job.teacher, model.inputs, torch.device("cpu"))
    labels = job.train["labels"]
    if labels is None and params.hard_weight == 1:
        raise InvalidDataset(
            "the training data have no labels, and hard_weight=1 lets nothing but labels count",
            stage=STAGE,
            param="inputs.train",
            hint="lower hard_weight, or upload data with an array called `labels`",
        )
    taught = taught_of(model, teacher.model, params, output, labels)
    labelled = labels is not None and params.learns_from_labels
    hard = labelled_loss(params.hard_loss, model, output, labels) if labelled else None
    features = None
    if params.feature_weight:
        pairs = pairs_of(model, teacher, params.features)
        features = Features(model.module, teacher.model.module, pairs, job.seed).to(device)
    model.module.to(device)
    teacher.model.module.to(device)
    return Distill(model, teacher, taught, hard, features, params)


def taught_of(
    model: TorchModel,
    teacher: TorchModel,
    params: DistillParams,
    output: str,
    labels: Mapping[str, Any] | None,
) -> list[Taught]:
    """What is compared: the outputs that are asked for, else all of floating-point numbers that both have by name, else `output`.

    `labels` are those of `output`.

    Raises:
        SignatureMismatch: the student has no such output, or the teacher has none for it.
    """
    numbers = {
        entry["name"]: number
        for number, entry in enumerate(model.outputs)
        if entry["dtype"].startswith(("float", "bfloat"))
    }
    both = [name for name in numbers if name in {entry["name"] for entry in teacher.outputs}]
    found = []
    for name in params.outputs or both or [output]:
        if name not in numbers:
            raise SignatureMismatch(
                f"the network that learns has no output of floating-point numbers called {name!r}",
                stage=STAGE,
                param="outputs",
                hint=f"there are {', '.join(numbers)}",
            )
        other = output_of_teacher(teacher, model.outputs[numbers[name]])
        pair = (numbers[name], other)
        own = labels if name == output else None
        found.append(
            Taught(name, other, soft_loss(params.soft_loss, params.temperature, (model, teacher), pair, own))
        )
    return found
