"""The pass `distill` on real labelled data, as a recipe runs it."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from app.catalog.passes import PASSES
from tests.workers.training.networks import Labelled, accuracy, write_program
from workers import passes
from workers.assignment import DatasetFiles
from workers.context import PassContext, Samples
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.samples import open_samples
from workers.torch.lift import lift
from workers.torch.program import load_program

LOADER = {"mode": "fixed", "workers": 0, "cache": "none"}


def opened(data: Labelled, folder: Path, *, labels: bool = True) -> Samples:
    """Data as an uploaded `.npz`."""
    path = data.save(folder / "data.npz", labels=labels)
    return open_samples(DatasetFiles(id="d", digest="0", root=path.parent, format="npz", name="data"))


def handle(path: Path, form: str = "torch-export") -> ModelHandle:
    """A model that lies alone in its folder."""
    return ModelHandle(path.parent, path.name, form, tree_digest(path.parent))


def network_of(model: ModelHandle) -> nn.Module:
    """The network of a `.pt2`."""
    return lift(load_program(model.path).program)


@dataclass
class Lesson:
    """A folder to work in, samples to learn from, and the teacher."""

    folder: Path
    teacher: ModelHandle
    samples: Mapping[str, Samples]

    def __post_init__(self) -> None:
        self._numbers = itertools.count()

    def give(
        self, student: ModelHandle, /, *, seed: int = 0, **params: Any
    ) -> tuple[ModelHandle, PassContext]:
        """What the student becomes, and the context of the pass."""
        place = self.folder / f"lesson{next(self._numbers)}"
        for name in ("out", "work", "aside"):
            (place / name).mkdir(parents=True)
        ctx = PassContext(
            out=place / "out", work=place / "work", aside=place / "aside", seed=seed, samples=self.samples,
            teacher=self.teacher,
        )  # fmt: skip
        given = PASSES["distill"].params.model_validate({"loader": LOADER, **params})
        return passes.registry.get("distill")(student, given, ctx), ctx


def scored(model: ModelHandle, data: Labelled) -> float:
    """The share of samples that a model names."""
    return accuracy(network_of(model), data)


def program(network: nn.Module, data: Labelled, folder: Path) -> ModelHandle:
    """A network as an uploaded program."""
    return handle(write_program(network, data.first(4), folder / "model.pt2"))
