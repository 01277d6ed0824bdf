"""An exported program that somebody uploaded, or that passes and conversions left: run eagerly, converted, lifted."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.export.pt2_archive import PT2ArchiveReader
from torch.utils._sympy.numbers import int_oo

from app.catalog.spec import Precision
from app.text import plain
from workers.model_handle import ModelHandle
from workers.runtimes.base import Feeds
from workers.torch.audit import MODEL
from workers.torch.facts import layers
from workers.torch.lift import lift
from workers.torch.model import TorchModel, dtype_name
from workers.torch.program import load_program, moved, runner
from workers.torch.signature import program_inputs
from workers.torch.to_onnx import program_to_onnx


class OpenedProgram:
    """See `formats.base.OpenedModel`. Raises as `load_program`."""

    def __init__(self, path: Path):
        self.program = load_program(path)
        self._run = runner(self.program)
        self.inputs = [dict(entry) for entry in self.program.inputs]
        self.outputs = [dict(entry) for entry in self.program.outputs]
        self.facts = _facts(self.program.program, self.inputs, path)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs by name, computed by the program's own graph. Raises as `program.runner`."""
        return self._run(feeds)

    def move(self, device: str) -> None:
        """Run on this device from now on: `cuda`. Feeds and outputs are the same arrays as before."""
        self._run = runner(moved(self.program, device), device)

    def to_onnx(self, out: Path) -> ModelHandle:
        """By the exporter that follows the program's graph. Raises as `program_to_onnx`."""
        return program_to_onnx(self.program.program, self.program.inputs, self.program.outputs, out)

    def to_torch(self) -> TorchModel:
        """The graph with real layers. Raises as `lift`."""
        return TorchModel(lift(self.program.program), self.program.inputs, self.program.outputs)


def _facts(program: ExportedProgram, inputs: Sequence[Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """`producer`; `parameters` (elements of weights), `buffers` (of other state) and `dtypes` of both; `free_dimensions`: the
    least and greatest size by name, null where there is no bound; `precision` of the layers that compute.
    """
    weights = dict(program.named_parameters())
    state = [value for _, value in program.named_buffers()]
    return {
        "producer": f"torch {_written_by(path)}",
        "parameters": sum(value.numel() for value in weights.values()),
        "buffers": sum(value.numel() for value in state),
        "dtypes": dtypes([*weights.values(), *state]),
        "free_dimensions": dict(_ranges(program, inputs)),
        "precision": _precision(program),
    }


def dtypes(tensors: Sequence[torch.Tensor]) -> dict[str, int]:
    """How many elements there are of each dtype, the most frequent first."""
    found: Counter[str] = Counter()
    for value in tensors:
        found[dtype_name(value.dtype)] += value.numel()
    return dict(found.most_common())


def _written_by(path: Path) -> str:
    """The version of torch that wrote the file, which the loaded program does not tell."""
    with path.open("rb") as file:
        told = json.loads(PT2ArchiveReader(file).read_bytes(MODEL)).get("torch_version")
    return plain(str(told), 50)


def _ranges(
    program: ExportedProgram, inputs: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, dict[str, int | None]]]:
    """A dimension without a name is called after its input and axis: `x 0`."""
    known = {str(symbol): bounds for symbol, bounds in program.range_constraints.items()}
    for entry, own in zip(inputs, program_inputs(program), strict=True):
        for axis, (dim, symbol) in enumerate(zip(entry["shape"], own["shape"], strict=True)):
            if isinstance(dim, int) or symbol not in known:
                continue
            bounds = known[symbol]
            upper = None if bounds.upper in (int_oo, torch.inf) else int(bounds.upper)
            yield dim or f"{entry['name']} {axis}", {"min": int(bounds.lower), "max": upper}


def _precision(program: ExportedProgram) -> Precision:
    """What layers were quantized to, if any was; else the types in which they compute."""
    found = layers(program)
    for kind in ("int8", "int8-dynamic", "weights-8bit"):
        if any(layer.quantized == kind for layer in found):
            return kind
    kinds = {layer.precision for layer in found}
    if len(kinds & {"fp32", "fp64"}) and kinds & {"fp16", "bf16"}:
        return "mixed"
    return "fp16" if "fp16" in kinds else "bf16" if "bf16" in kinds else "fp32"
