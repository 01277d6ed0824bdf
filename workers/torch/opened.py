"""A model that its format opened as a PyTorch module: run eagerly, converted by export."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.errors import InvalidModel
from app.text import first_line
from workers.model_handle import ModelHandle
from workers.runtimes.base import Feeds
from workers.torch.exporting import LENGTHS
from workers.torch.model import leaves, sizes, to_array, to_tensor
from workers.torch.program import TorchModel, check_feeds, example_inputs, export
from workers.torch.to_onnx import program_to_onnx

OBSERVED_SIZES = (2, 3)  # of first dimensions: what differs between two runs is free in an output too


class OpenedTorch:
    """See `formats.base.OpenedModel`; `facts` are the format's own."""

    def __init__(self, model: TorchModel, facts: Mapping[str, Any] | None = None):
        self._model = model
        self.inputs = [dict(entry) for entry in model.inputs]
        self.outputs = [dict(entry) for entry in model.outputs]
        self.facts = dict(facts or {})
        self._device = "cpu"

    def move(self, device: str) -> None:
        """Run on this device from now on: `cuda`. Feeds and outputs are the same arrays as before."""
        self._model.module.to(device)
        self._device = device

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs by name, computed eagerly.

        Raises:
            SignatureMismatch: names, types or shapes of the feeds are not the model's.
        """
        tensors = [to_tensor(value).to(self._device) for value in fitting(self.inputs, feeds)]
        found = _run(self._model.module, tensors)
        named = zip(self.outputs, leaves(found), strict=True)
        return {entry["name"]: to_array(value) for entry, value in named}

    def to_torch(self) -> TorchModel:
        """The module itself."""
        return self._model

    def to_onnx(self, out: Path) -> ModelHandle:
        """By torch.export and the exporter that follows its graph. Raises as `program_to_onnx`."""
        return program_to_onnx(export(self._model), self._model.inputs, self._model.outputs, out)


def fitting(inputs: Sequence[Mapping[str, Any]], feeds: Feeds) -> list[np.ndarray]:
    """The feeds in the order of the inputs. Raises SignatureMismatch as `check_feeds`."""
    check_feeds(inputs, feeds)
    return [feeds[entry["name"]] for entry in inputs]


def with_outputs(model: TorchModel, names: Sequence[str] | None = None) -> TorchModel:
    """The model with the outputs that it gives on seeded inputs of two sizes: types, shapes, and which dimensions are free.

    `names` are theirs, in order; absent, the keys of a dictionary, `output`, or `output_0` and so on.

    Raises:
        InvalidModel: it does not run on inputs that fit its signature, or gives something that is no tensor.
    """
    seen = _observed(model)
    first, second = (leaves(one) for one in seen)
    chosen = list(names) if names is not None else output_names(seen[0])
    if len(chosen) != len(first):
        raise InvalidModel(f"the model gives {len(first)} outputs, {len(chosen)} were named: {chosen}")
    outputs = tuple(
        {"name": name, "dtype": to_array(one).dtype.name, "shape": _shape(model.inputs, one, other)}
        for name, one, other in zip(chosen, first, second, strict=True)
    )
    return replace(model, outputs=outputs)


def _observed(model: TorchModel) -> tuple[Any, Any]:
    """What it gives at two sizes: those of the first length at which both run."""
    failed: Exception | None = None
    for length in LENGTHS:
        both = [
            sizes(model.inputs, batch, length * times)
            for batch, times in zip(OBSERVED_SIZES, (1, 2), strict=True)
        ]
        try:
            first, second = (_run(model.module, example_inputs(model.inputs, dims=dims)) for dims in both)
            return first, second
        except Exception as error:  # a network may raise anything
            failed = failed or error
        if max(both[0].values(), default=0) < length:
            break  # no dimension has that length
    raise InvalidModel(
        f"the model does not run on inputs that fit its signature: {_sentence(failed)}",
        hint="declare the inputs as the model takes them (`signature`), with numbers for dimensions that are fixed",
    ) from failed


def output_names(found: Any) -> list[str]:
    """Names for what a module gave: a dictionary's keys, `output` for a tensor, else `output_0` and so on."""
    if isinstance(found, torch.Tensor):
        return ["output"]
    if isinstance(found, Mapping) and all(isinstance(value, torch.Tensor) for value in found.values()):
        return [str(name) for name in found]
    return [f"output_{number}" for number in range(len(leaves(found)))]


def _shape(
    inputs: Sequence[Mapping[str, Any]], one: torch.Tensor, other: torch.Tensor
) -> list[int | str | None]:
    """An output's shape: what changed with the free dimensions is free. A first axis is called as the inputs' are."""
    firsts = {entry["shape"][0] for entry in inputs if entry["shape"]}
    batch = next(iter(firsts)) if len(firsts) == 1 else None
    return [
        size if size == changed else (batch if axis == 0 and isinstance(batch, str) else None)
        for axis, (size, changed) in enumerate(zip(one.shape, other.shape, strict=True))
    ]


def _run(module: torch.nn.Module, tensors: Sequence[torch.Tensor]) -> Any:
    with torch.inference_mode():
        return module(*tensors)


def _sentence(error: BaseException | None) -> str:
    return (first_line(str(error)) or type(error).__name__)[:500]
