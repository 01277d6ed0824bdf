"""The task of the pass `qat`: the network in 8 bits, against labels and against what it gives in floating point."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.catalog.pass_params.qat import QatParams
from workers.onnx_to_torch.convert import to_module
from workers.training.fake_quant_prepare import Plan
from workers.training.losses import Loss, labelled_loss
from workers.training.network import open_network
from workers.training.rank import output_of
from workers.training.task import Batch, TrainingJob

LEAST_VARIANCE = 1e-8  # an output that never changes must still be divided by something


class Qat:
    """See `task.Task`. `teacher` is the network in floating point; None where labels are all of the loss."""

    def __init__(
        self,
        plan: Plan,
        params: QatParams,
        loss: Loss | None,
        teacher: nn.Module | None,
        device: torch.device,
    ):
        self._quantized, _ = plan.build(params)
        self.network: nn.Module = self._quantized.to(device)
        self.inputs: Sequence[Mapping[str, Any]] = plan.inputs
        self.outputs: Sequence[Mapping[str, Any]] = plan.outputs
        self._params = params
        self._loss = loss
        self._teacher = teacher

    def loss(self, outputs: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """See `Task.loss`. Parts: `hard` of the labels, `soft` of the network in floating point, where both count."""
        hard = soft = None
        if self._loss is not None and batch.labels is not None:
            hard = self._loss(outputs[self._loss.output], batch.labels, batch.indices)
        if self._teacher is not None:
            soft = self._compared(outputs, batch)
        if hard is None or soft is None:
            only = soft if hard is None else hard
            assert only is not None
            return only, {}
        total = (1 - self._params.soft) * hard + self._params.soft * soft
        return total, {"hard": float(hard.detach()), "soft": float(soft.detach())}

    def _compared(self, outputs: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Of scores of classes the divergence (Hinton et al., 2015, https://arxiv.org/abs/1503.02531); of all other outputs the
        squared error, as a share of their variance over the batch."""
        assert self._teacher is not None
        with torch.autocast(batch.indices.device.type, enabled=False), torch.no_grad():
            wanted = dict(zip(outputs, self._teacher(*batch.inputs), strict=True))
        with torch.autocast(batch.indices.device.type, enabled=False):
            if (
                self._loss is not None
                and self._loss.name == "cross-entropy"
                and not self._loss.of_probabilities
            ):
                name = self._loss.output
                return _divergence(outputs[name].float(), wanted[name].float(), self._params.temperature)
            errors = [
                functional.mse_loss(found.float(), wanted[name].float())
                / wanted[name].float().var(correction=0).clamp(min=LEAST_VARIANCE)
                for name, found in outputs.items()
                if found.is_floating_point()
            ]
            return torch.stack(errors).mean()

    def helpers(self) -> Iterable[nn.Parameter]:
        """None."""
        return ()

    def before_step(self, step: int, steps: int) -> None:
        """Freeze late, see `QatParams.freeze_at`."""
        if step >= self._params.freeze_at * steps:
            self._quantized.freeze()


def _divergence(scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """The mean over the samples (and positions); classes are last, or on axis 1 of images."""
    axis = 1 if scores.dim() > 3 else -1
    logs = functional.log_softmax(scores / temperature, axis)
    known = functional.log_softmax(wanted / temperature, axis)
    return (known.exp() * (known - logs)).sum(axis).mean() * temperature**2


def build(job: TrainingJob, device: torch.device) -> Qat:
    """The network of the job's plan, on the device.

    Raises:
        InvalidParams, InvalidDataset, SignatureMismatch, UnsupportedOperator: see `output_of`, `labelled_loss`, `build_network`.
    """
    params = QatParams.model_validate(job.params)
    plan = Plan.of(job.extra)
    labels = job.train["labels"]
    loss = None
    if labels is not None and params.learns_from_labels:
        output = output_of(params, plan.outputs)
        loss = labelled_loss(params.loss, open_network(job.program), output, labels, params.label_smoothing)
    teacher = None
    if loss is None or params.soft > 0:
        teacher = to_module(plan.load()).requires_grad_(False).to(device)
    return Qat(plan, params, loss, teacher, device)
