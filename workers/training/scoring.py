"""How good a network is on validation data: its loss, or a metric of the catalog."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from app.catalog.evaluation import metric_called
from app.errors import InvalidDataset, InvalidParams
from workers.training.group import Group
from workers.training.running import call
from workers.training.task import STAGE, Batch, Batches, Task

LOSS = "loss"


@dataclass(frozen=True)
class Scoring:
    """What validation data are scored by: `metric` is a metric's name, or `loss`; `output` is the one that a metric reads."""

    metric: str
    output: str

    @property
    def higher_is_better(self) -> bool:
        """Which way is better."""
        return self.metric != LOSS and metric_called(self.metric, "params.metric").higher_is_better

    def better(self, score: float, than: float | None) -> bool:
        """Whether a score is better than another, or than none. One that is equal is not."""
        if than is None:
            return True
        return score > than if self.higher_is_better else score < than


def scoring_of(metric: str | None, output: str, labels: Mapping[str, Any] | None) -> Scoring:
    """Hold a metric against the validation data; absent: the loss.

    Raises:
        InvalidParams: there is no such metric, or it compares two models.
        InvalidDataset: it needs labels, and there are none.
    """
    if metric is None:
        return Scoring(LOSS, output)
    spec = metric_called(metric, "params.metric")
    if spec.paired:
        raise InvalidParams(
            f"{metric} compares two models, so it says nothing of one that is trained",
            stage=STAGE,
            param="metric",
            hint="use a metric of outputs and labels, or none: then the loss is taken",
        )
    if labels is None:
        raise InvalidDataset(
            f"the metric {metric} needs labels, and the validation data have none",
            stage=STAGE,
            param="inputs.validation",
            hint="upload data with an array called `labels`, or leave `metric` out: then the loss is taken",
        )
    return Scoring(metric, output)


@torch.no_grad()
def score(task: Task, batches: Batches, scoring: Scoring, group: Group, device: torch.device) -> float:
    """The mean over all validation samples, the same in every process. The network is in eval mode, and stays so.

    It runs in fp32, as what is left of training is. Every process runs as many batches, some twice: parts of a network that
    is spread over processes are fetched together.

    Raises:
        InvalidModel: outputs are not finite. InvalidDataset, SignatureMismatch: labels do not fit.
    """
    task.network.eval()
    total = torch.zeros(2, dtype=torch.float64)
    done = 0
    last: Batch | None = None
    for batch in batches.once():
        value = _sum(task, batch, scoring)
        total += torch.tensor([value, len(batch.indices)], dtype=torch.float64)
        done, last = done + 1, batch
    for _ in range(_most(done, group, device) - done):
        if last is not None:
            call(task, task.network, last)
    total = group.sum(total.to(device)).cpu()
    return float(total[0] / total[1])


def _sum(task: Task, batch: Batch, scoring: Scoring) -> float:
    outputs = call(task, task.network, batch)
    count = len(batch.indices)
    if scoring.metric == LOSS:
        loss, _ = task.loss(outputs, batch)
        return float(loss) * count
    from workers.measure.metrics import registry

    assert batch.labels is not None
    scores = registry.alone(scoring.metric)(
        _array(outputs[scoring.output]), _array(batch.labels), int(batch.indices[0])
    )
    return float(np.sum(scores))


def _array(tensor: Tensor) -> np.ndarray:
    values: np.ndarray = (
        tensor.detach().float().cpu().numpy() if tensor.is_floating_point() else tensor.cpu().numpy()
    )
    return values


def _most(count: int, group: Group, device: torch.device) -> int:
    """The greatest number that a process has."""
    told = torch.zeros(group.world, dtype=torch.float64, device=device)
    told[group.rank] = count
    return int(group.sum(told).max())
