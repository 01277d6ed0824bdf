"""Whole trainings on scikit-learn's digits through `launch.run`, as a pass starts them."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from app.catalog.pass_params.finetune import FinetuneParams
from tests.workers.training.arrays import digits, program
from workers import horovod_library
from workers.assignment import DatasetFiles
from workers.context import NoCheckpoint, PassContext
from workers.samples import open_samples
from workers.training import launch
from workers.training.data import describe
from workers.training.report import TrainingReport
from workers.training.task import TrainingJob
from workers.training.weights import WEIGHTS

BATCH = 32
PARAMS = {"optimizer": "sgd", "learning_rate": 0.05, "batch_size": BATCH, "ema_decay": 0.5, "metric": "top1"}


@dataclass
class FolderCheckpoint:
    """See `context.Checkpoint`: kept in a folder that outlives the process."""

    root: Path
    kept: Callable[[Path], None] = lambda folder: None
    count: int = field(default=0)

    @classmethod
    def make(cls, root: Path, kept: Callable[[Path], None] = lambda folder: None) -> "FolderCheckpoint":
        root.mkdir(exist_ok=True)
        return cls(root, kept)

    def last(self) -> Path | None:
        found = sorted(self.root.glob("kept-*")) if self.root.is_dir() else []
        return found[-1] if found else None

    def keep(self, folder: Path) -> None:
        before = self.last()
        number = 1 + (int(before.name.removeprefix("kept-")) if before is not None else 0)
        copy = self.root / f"copying-{os.getpid()}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        copy.rename(self.root / f"kept-{number:06d}")
        if before is not None:
            shutil.rmtree(before)
        self.count += 1
        self.kept(folder)


@dataclass(frozen=True)
class Setting:
    """A network that knows nothing, and digits to learn from."""

    program: Path
    data: Path

    @classmethod
    def make(cls, folder: Path, network: nn.Module | None = None, count: int = 512) -> "Setting":
        data = folder / "data"
        data.mkdir(parents=True)
        images, labels = digits(count)
        np.savez(data / "digits.npz", images=images, labels=labels)
        return cls(program(folder, network), data)

    def train(
        self,
        out: Path,
        checkpoint: FolderCheckpoint | None = None,
        checkpoint_seconds: float = 1e9,
        **params: Any,
    ) -> tuple[TrainingReport, dict[str, torch.Tensor], PassContext]:
        """Train into `out`, which is made; the report, the weights and what the pass was left with."""
        given = FinetuneParams.model_validate(
            {
                "optimizer": "sgd",
                "learning_rate": 0.05,
                "batch_size": BATCH,
                "freeze_batch_norm": True,
                **params,
            }
        )
        for name in ("training", "aside", "work"):
            (out / name).mkdir(parents=True)
        samples = open_samples(DatasetFiles(id="d", digest="0", root=self.data, format="npz", name="digits"))
        job = TrainingJob(
            task="finetune", program=self.program, params=given.model_dump(mode="json"), seed=3, device="cpu",
            train=describe(samples), validation=describe(samples), out=out / "training",
        )  # fmt: skip
        ctx = PassContext(
            out=out, aside=out / "aside", work=out / "work", seed=3, checkpoint_seconds=checkpoint_seconds,
            checkpoint=checkpoint or NoCheckpoint(),
        )  # fmt: skip
        report = launch.run(job, ctx, given)
        return report, load_file(job.out / WEIGHTS), ctx


def members() -> dict[int, psutil.Process]:
    """The processes below this one that train together, by rank."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            line, environment = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        if "train" in line and "RANK" in environment:
            found[int(environment["RANK"])] = process
    return found


def together(processes: int = 2, strategy: str = "ddp", backend: str = "torchrun") -> dict[str, Any]:
    return {"distributed": {"processes": processes, "strategy": strategy, "backend": backend}}


needs_horovod = pytest.mark.skipif(
    horovod_library.version() is None, reason="there is no Horovod (make horovod-env)"
)
