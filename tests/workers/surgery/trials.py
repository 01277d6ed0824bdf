"""A surgery pass on a network, as tests give it one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import fx, nn

from app.catalog.passes import PASSES
from workers import passes
from workers.assignment import DatasetFiles
from workers.context import PassContext, Samples
from workers.conversion import open_model
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.samples import open_samples
from workers.torch.lift import lift
from workers.torch.program import TorchModel, export, load_program, save_program


@dataclass
class Trial:
    """A pass by its name, and the model that it is tried on."""

    root: Path
    name: str
    model: ModelHandle
    count: int = field(default=0)

    def apply(
        self, data: Mapping[str, Mapping[str, np.ndarray]] | None = None, **params: Any
    ) -> tuple[ModelHandle, PassContext]:
        """The new model, and what the pass told."""
        self.count += 1
        folder = self.root / f"out{self.count}"
        for name in ("out", "work"):
            (folder / name).mkdir(parents=True)
        samples = {role: dataset(folder / role, arrays) for role, arrays in (data or {}).items()}
        ctx = PassContext(out=folder / "out", work=folder / "work", samples=samples)
        spec = PASSES[self.name]
        return passes.registry.get(self.name)(self.model, spec.params.model_validate(params), ctx), ctx

    def lifted(self, model: ModelHandle) -> fx.GraphModule:
        """A model's network."""
        network = lift(load_program(model.path).program)
        assert isinstance(network, fx.GraphModule)
        return network

    def run(self, model: ModelHandle, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        """What a model gives."""
        return open_model(model).run(feeds)


def trial(root: Path, name: str, network: nn.Module, inputs: Sequence[Any], outputs: Sequence[Any]) -> Trial:
    """A network as a program of this signature."""
    folder = root / "model"
    folder.mkdir()
    program = export(TorchModel(network.eval(), tuple(inputs), tuple(outputs)))
    save_program(program, inputs, outputs, folder / "model.pt2")
    return Trial(root, name, ModelHandle(folder, "model.pt2", "torch-export", tree_digest(folder)))


def dataset(folder: Path, arrays: Mapping[str, np.ndarray]) -> Samples:
    """Arrays as a dataset."""
    folder.mkdir()
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    return open_samples(
        DatasetFiles(id="data", digest=tree_digest(folder), root=folder, format="npz", name="data")
    )
