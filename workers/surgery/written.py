"""A network that surgery changed, written with its signature, and held to what it gave before it was written."""

from pathlib import Path
from typing import Any

import torch

from app.errors import InvalidModel
from workers.torch.exporting import sizes_that_run
from workers.torch.model import TorchModel, example_inputs, leaves, to_array
from workers.torch.program import export, load_program, runner, save_program

TOLERANCE = 1e-3  # of the largest number of an output: a program adds in another order


def write(model: TorchModel, path: Path) -> None:
    """Export a network.

    Raises:
        InvalidModel, UnsupportedOperator: see `export`.
    """
    save_program(export(model), model.inputs, model.outputs, path)


def check(model: TorchModel, path: Path, stage: str) -> None:
    """Raises InvalidModel where the written program gives something else than the network."""
    inputs = example_inputs(model.inputs, dims=sizes_that_run(model))
    with torch.no_grad():
        wanted = leaves(model.module(*inputs))
    feeds = {entry["name"]: to_array(value) for entry, value in zip(model.inputs, inputs, strict=True)}
    found: Any = runner(load_program(path))(feeds)
    for entry, value in zip(model.outputs, wanted, strict=True):
        got = torch.from_numpy(found[entry["name"]].copy())
        near = TOLERANCE * float(value.abs().max()) if value.numel() else 0.0
        told = [size for dim, size in zip(entry["shape"], got.shape, strict=True) if isinstance(dim, int)]
        fixed = [dim for dim in entry["shape"] if isinstance(dim, int)]
        if (
            got.shape != value.shape
            or told != fixed
            or not torch.allclose(got, value, 0, near, equal_nan=True)
        ):
            raise InvalidModel(
                f"the network gives another {entry['name']!r} after it was written",
                stage=stage,
                hint="this is a fault of the pass on this model: leave layers out of it (`ignore`), or the pass",
            )
