"""Training data in memory, and small jobs on scikit-learn's digits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from app.catalog.pass_params.finetune import FinetuneParams
from tests.workers.engines.networks import Cnn
from workers.torch.program import TorchModel, export, save_program
from workers.training.group import Group, SingleProcess
from workers.training.loop import Loop
from workers.training.phases import UNMEASURED, Phases
from workers.training.scoring import scoring_of
from workers.training.task import Batch, TrainingJob
from workers.training.tasks import finetune

IMAGES = {"name": "images", "dtype": "float32", "shape": ["batch", 1, 8, 8]}
LOGITS = {"name": "logits", "dtype": "float32", "shape": ["batch", 10]}


@dataclass
class ArrayBatches:
    """See `task.Batches`: arrays, shuffled anew in each epoch."""

    inputs: tuple[np.ndarray, ...]
    targets: np.ndarray | None
    batch_size: int
    seed: int = 0
    indices: list[list[int]] = field(default_factory=list)  # that were given out

    @property
    def count(self) -> int:
        return len(self.inputs[0])

    @property
    def labels(self) -> Mapping[str, Any] | None:
        if self.targets is None:
            return None
        return {"dtype": self.targets.dtype.name, "shape": list(self.targets.shape[1:])}

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng((self.seed, number)).permutation(self.count)
        for step in range(first, self.count // self.batch_size):
            yield self._batch(order[step * self.batch_size : (step + 1) * self.batch_size])

    def once(self) -> Iterator[Batch]:
        for start in range(0, self.count, 256):
            yield self._batch(np.arange(start, min(start + 256, self.count)))

    def facts(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        return None

    def _batch(self, rows: np.ndarray) -> Batch:
        self.indices.append(rows.tolist())
        labels = None if self.targets is None else torch.from_numpy(self.targets[rows])
        return Batch(
            tuple(torch.from_numpy(values[rows]) for values in self.inputs), labels, torch.from_numpy(rows)
        )


def digits(count: int = 1797, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 1, 8, 8] from 0 to 1 and their classes."""
    held = load_digits()
    order = np.random.default_rng(0).permutation(len(held.images))[start : start + count]
    return (held.images[order] / 16.0).astype(np.float32)[:, None], held.target[order].astype(np.int64)


def program(
    folder: Path, network: nn.Module | None = None, batch: Any = "batch", outputs: Any = None
) -> Path:
    """A `.pt2` of a network that knows nothing yet."""
    torch.manual_seed(0)
    module = (network or Cnn()).eval()
    inputs = ({**IMAGES, "shape": [batch, 1, 8, 8]},)
    given = tuple(outputs or ({**LOGITS, "shape": [batch, 10]},))
    path = folder / "model.pt2"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_program(export(TorchModel(module, inputs, given)), inputs, given, path)
    return path


def train_arrays(
    model: Path,
    out: Path,
    *,
    data: tuple[np.ndarray, np.ndarray | None] | None = None,
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 1e9,
    tell: Any = None,
    seed: int = 0,
    group: Group | None = None,
    phases: Phases = UNMEASURED,
    **params: Any,
) -> tuple[Loop, Any]:
    """A loop over arrays and its task, ready to run."""
    given = FinetuneParams(**params)
    images, labels = data if data is not None else digits(512)
    batches = ArrayBatches((images,), labels, given.batch_size)
    job = TrainingJob(
        task="finetune", program=model, params=given.model_dump(mode="json"), seed=seed, device="cpu",
        train={"labels": batches.labels}, out=out,
    )  # fmt: skip
    task = finetune.build(job, torch.device("cpu"))
    held = ArrayBatches((validation[0],), validation[1], given.batch_size) if validation is not None else None
    scoring = scoring_of(
        given.metric, given.output or task.outputs[0]["name"], None if held is None else held.labels
    )
    loop = Loop(
        task, batches, held, scoring, given, group or SingleProcess(), tell or (lambda event: None),
        seed=seed, device=torch.device("cpu"), out=out, checkpoint_seconds=checkpoint_seconds, checkpoint=checkpoint,
        phases=phases,
    )  # fmt: skip
    return loop, task
