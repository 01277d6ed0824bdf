"""The task of the pass `finetune`: the network's own output against labels."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from app.catalog.pass_params.finetune import FinetuneParams
from app.errors import InvalidDataset
from workers.torch.model import TorchModel
from workers.training.losses import NO_LABELS, Loss, labelled_loss
from workers.training.network import open_network
from workers.training.rank import output_of
from workers.training.task import STAGE, Batch, TrainingJob


class Finetune:
    """See `task.Task`."""

    def __init__(self, model: TorchModel, loss: Loss):
        self.network: nn.Module = model.module
        self.inputs: Sequence[Mapping[str, Any]] = model.inputs
        self.outputs: Sequence[Mapping[str, Any]] = model.outputs
        self._loss = loss

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """See `Task.loss`."""
        if batch.labels is None:
            raise InvalidDataset("the data have no labels", stage=STAGE, param="labels", hint=NO_LABELS)
        return self._loss(outputs[self._loss.output], batch.labels, batch.indices), {}

    def helpers(self) -> Iterable[nn.Parameter]:
        """None."""
        return ()

    def before_step(self, step: int, steps: int) -> None:
        """Nothing changes."""


def build(job: TrainingJob, device: torch.device) -> Finetune:
    """The network of the job's program, on the device.

    Raises:
        InvalidDataset: there are no labels.
        InvalidParams, SignatureMismatch, InvalidModel, UnsupportedOperator: see `output_of`, `open_network`.
    """
    params = FinetuneParams.model_validate(job.params)
    model = open_network(job.program)
    loss = labelled_loss(
        params.loss, model, output_of(params, model.outputs), job.train["labels"], params.label_smoothing
    )
    model.module.to(device)
    return Finetune(model, loss)
