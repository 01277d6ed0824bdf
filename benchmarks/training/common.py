"""Networks, data and passes as the parts use them: no service, the passes themselves."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import nn

from app.catalog.passes import PASSES
from app.measurements.compare import Interval
from workers import passes
from workers.assignment import DatasetFiles
from workers.context import PassContext, Samples, Timing
from workers.conversion import convert, open_model
from workers.measure.processors import allowed_cpus, pin
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.samples import open_samples
from workers.torch.program import TorchModel, export, save_program

INPUT, OUTPUT = "images", "logits"
T_OF_THREE = 4.303  # Student's t for 95% and two degrees of freedom
BATCH = 500


@dataclass
class Room:
    """A folder for everything that a part makes."""

    root: Path
    _count: int = field(default=0)

    def new(self) -> Path:
        """An empty folder."""
        self._count += 1
        made = self.root / f"{self._count:03d}"
        made.mkdir()
        return made

    def program(self, network: nn.Module, shape: Sequence[int], classes: int = 10) -> ModelHandle:
        """A network of images as an exported program."""
        folder = self.new()
        inputs = ({"name": INPUT, "dtype": "float32", "shape": ["batch", *shape]},)
        outputs = ({"name": OUTPUT, "dtype": "float32", "shape": ["batch", classes]},)
        save_program(
            export(TorchModel(network.eval(), inputs, outputs)), inputs, outputs, folder / "model.pt2"
        )
        return ModelHandle(folder, "model.pt2", "torch-export", tree_digest(folder))

    def data(self, images: np.ndarray, labels: np.ndarray | None = None) -> Samples:
        """Arrays as a dataset."""
        folder = self.new()
        given = {INPUT: images} if labels is None else {INPUT: images, "labels": labels}
        np.savez(folder / "data.npz", **given)  # type: ignore[arg-type]
        return open_samples(
            DatasetFiles(id="data", digest=tree_digest(folder), root=folder, format="npz", name="data")
        )

    def apply(
        self,
        name: str,
        model: ModelHandle,
        params: Mapping[str, Any],
        samples: Mapping[str, Samples],
        *,
        teacher: ModelHandle | None = None,
        timing: Timing | None = None,
        seed: int = 0,
    ) -> tuple[ModelHandle, dict[str, Any]]:
        """A pass on a model, converted where the pass takes another format; the new model and the pass's facts."""
        spec = PASSES[name]
        if model.format not in spec.formats:
            (to,) = spec.formats
            model, _ = convert(open_model(model), to, self.new())
        ctx = PassContext(
            out=self.new(),
            work=self.new(),
            aside=self.new(),
            seed=seed,
            samples=samples,
            teacher=teacher or model,
            timing=timing,
        )
        made = passes.registry.get(name)(model, spec.params.model_validate(params), ctx)
        return made, ctx.facts


@contextmanager
def room() -> Iterator[Room]:
    """A folder that goes with the block."""
    with tempfile.TemporaryDirectory(prefix="burnish-training-") as folder:
        yield Room(Path(folder))


def accuracy(model: ModelHandle, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that a model names, in percent."""
    opened = open_model(model)
    named = [
        opened.run({INPUT: images[start : start + BATCH]})[OUTPUT].argmax(1)
        for start in range(0, len(images), BATCH)
    ]
    return 100 * float((np.concatenate(named) == labels).mean())


def over_three(values: Sequence[float]) -> Interval:
    """The mean of three seeds, with Student's interval of 95%."""
    middle, half = mean(values), T_OF_THREE * stdev(values) / sqrt(len(values))
    return Interval(middle, middle - half, middle + half)


def interval_text(found: Interval, digits: int = 1) -> str:
    """`1.2 [0.8, 1.6]`."""
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def one_thread() -> None:
    """What is compared is compared on one core."""
    torch.set_num_threads(1)


@contextmanager
def one_core() -> Iterator[None]:
    """The block, and the trainings in it, on one processor: theirs take all that they may use, whatever threads there were before."""
    before = allowed_cpus()
    one_thread()
    pin(before[-1:])
    try:
        yield
    finally:
        pin(before)
