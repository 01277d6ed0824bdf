"""What a training tells of itself."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

REPORT = "report.json"


class Epoch(BaseModel):
    """One epoch. `loss` and its `parts` are means over the epoch's steps; `score` is that of the validation data."""

    model_config = ConfigDict(extra="forbid")

    epoch: int  # from 1
    loss: float
    parts: dict[str, float]
    learning_rate: float  # of its last step
    score: float | None


class TrainingReport(BaseModel):
    """Numbers that JSON can say. `metric` is `loss` or a metric's name, null where there are no validation data; `before` is its
    value before the first step. `best_epoch` 0: no epoch was better than the weights that it began with.
    """

    model_config = ConfigDict(extra="forbid")

    steps: int
    epochs: int
    history: list[Epoch]
    metric: str | None
    before: float | None
    best: float | None
    best_epoch: int | None
    stopped_early: bool
    resumed_from: list[int]  # the steps after which other attempts ended, as far as they were kept
    seconds: float  # of all attempts, validation included
    samples_per_second: float  # of training alone
    precision: dict[str, Any]  # see `Precision.facts`
    loader: dict[str, Any]
    processes: int
    weights: dict[str, int]  # `trained` and `frozen`: their elements
    kept_zero: int = 0  # weights that pruning had set to zero, and that stayed so
    layers: dict[str, int]  # `batch_norms`, `dropouts`: what trains otherwise than it runs

    def save(self, folder: Path) -> None:
        """Write `report.json`."""
        (folder / REPORT).write_text(self.model_dump_json(indent=1))


def load_report(folder: Path) -> TrainingReport:
    """Read what `save` wrote."""
    return TrainingReport.model_validate_json((folder / REPORT).read_text())
