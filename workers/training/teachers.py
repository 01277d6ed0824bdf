"""The network that teaches: opened from its description in whatever format, frozen, in its own precision."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from app.errors import (
    BurnishError,
    InvalidModel,
    OutOfMemory,
    SignatureMismatch,
    UnsupportedFormat,
    UnsupportedOperator,
)
from app.text import first_line, plain
from workers.conversion import open_model
from workers.formats.base import OpenedModel
from workers.model_handle import ModelHandle
from workers.torch.model import TorchModel, leaves, to_array, to_tensor
from workers.training.rebatch import rebatched
from workers.training.task import STAGE, Batch

PARAM = "inputs.teacher"
HINT = (
    "a teacher takes the samples that the network is trained on: inputs of the same names, shapes and values"
)
Entry = Mapping[str, Any]  # name, dtype, shape


def describe_teacher(model: ModelHandle) -> dict[str, Any]:
    """What another process opens the teacher by (`TrainingJob.teacher`)."""
    return {
        "root": str(model.root),
        "entry": model.entry,
        "format": model.format,
        "declared": dict(model.declared),
    }


@dataclass(frozen=True)
class Teacher:
    """`places` tells for each of its inputs which of the student's inputs goes there."""

    model: TorchModel
    places: tuple[int, ...]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> list[Tensor]:
        """Its outputs for the samples of a batch.

        Raises:
            SignatureMismatch: samples have another shape than it takes.
            InvalidModel, OutOfMemory: it does not run on them.
        """
        given = [
            _fitting(entry, batch.inputs[place], batch.indices)
            for place, entry in zip(self.places, self.model.inputs, strict=True)
        ]
        with about_teacher(batch), torch.autocast(batch.indices.device.type, enabled=False):
            return leaves(self.model.module(*given))


def open_teacher(described: Mapping[str, Any], student: Sequence[Entry], device: torch.device) -> Teacher:
    """A teacher from `describe_teacher`'s words, for a student with these inputs.

    What becomes no PyTorch network is run by its own framework, on the CPU; its layers cannot be looked into.

    Raises:
        SignatureMismatch: it takes an input that the student has not.
        InvalidModel, UnsafeModel, UnsupportedFormat: it cannot be opened, or runs with batches of one size only.
    """
    opened = open_model(
        ModelHandle(
            Path(described["root"]), described["entry"], described["format"], "", described["declared"]
        )
    )
    try:
        model = opened.to_torch()
        model.module.eval()
    except (UnsupportedOperator, UnsupportedFormat, InvalidModel):
        model = TorchModel(_Foreign(opened), tuple(opened.inputs), tuple(opened.outputs))
    else:
        try:
            model = rebatched(model)
        except InvalidModel as error:
            error.detail, error.param = f"the teacher: {error.detail}", PARAM
            raise
    model.module.to(device).requires_grad_(False)
    return Teacher(model, _places(model.inputs, student))


def output_of_teacher(teacher: TorchModel, output: Entry) -> int:
    """The number of the teacher's output that an output of the student is held against: of its name, or the only one.

    Raises:
        SignatureMismatch: there is none, or it has another shape.
    """
    names = [entry["name"] for entry in teacher.outputs]
    number = names.index(output["name"]) if output["name"] in names else 0
    found = teacher.outputs[number]
    if (names[number] == output["name"] or len(names) == 1) and _alike(output, found):
        return number
    raise SignatureMismatch(
        f"the teacher's outputs do not fit: the network that learns gives {_told([output])}, the teacher {_told(teacher.outputs)}",
        stage=STAGE,
        param=PARAM,
        hint="name a teacher for the same task, with an output of the same name and shape; `output` says which one is trained",
    )


@contextmanager
def about_teacher(batch: Batch | None = None) -> Iterator[None]:
    """Say of errors inside the block that they are the teacher's.

    Raises:
        InvalidModel: it does not run. OutOfMemory: the batch is too large.
    """
    try:
        yield
    except (BurnishError, MemoryError):
        raise
    except Exception as error:  # whatever its framework raises
        text = plain(first_line(str(error)) or type(error).__name__, 400)
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in text:
            raise OutOfMemory(
                f"the teacher's answers to a batch do not fit into memory: {text}",
                stage=STAGE,
                param="accumulate",
                hint="compute a batch in more parts (`accumulate`), or make `batch_size` smaller",
            ) from error
        rows = None if batch is None else batch.indices.tolist()
        where = f"on samples {rows[0]} to {rows[-1]}" if rows else "on samples that were generated to fit"
        raise InvalidModel(
            f"the teacher does not run {where}: {text}", stage=STAGE, param=PARAM, hint=HINT
        ) from error


class _Foreign(nn.Module):
    """A model of another framework as a module. It may take batches of one size alone: the last is filled up with its last sample."""

    def __init__(self, opened: OpenedModel):
        super().__init__()
        self._opened = opened
        sizes = [entry["shape"][0] for entry in opened.inputs if entry["shape"]]
        self._size = next((size for size in sizes if isinstance(size, int)), None)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """Outputs on the device of the inputs."""
        count = len(inputs[0])
        size = self._size or count
        arrays = [to_array(values) for values in inputs]
        parts = [
            self._run([values[start : start + size] for values in arrays], size if self._size else 0)
            for start in range(0, count, size)
        ]
        return [
            to_tensor(np.concatenate([part[entry["name"]] for part in parts])[:count]).to(inputs[0].device)
            for entry in self._opened.outputs
        ]

    def _run(self, arrays: Sequence[np.ndarray], size: int) -> dict[str, np.ndarray]:
        feeds = {}
        for entry, values in zip(self._opened.inputs, arrays, strict=True):
            missing = max(size - len(values), 0)
            feeds[entry["name"]] = (
                np.concatenate([values, values[-1:].repeat(missing, 0)]) if missing else values
            )
        return self._opened.run(feeds)


def _places(taken: Sequence[Entry], given: Sequence[Entry]) -> tuple[int, ...]:
    names = [entry["name"] for entry in given]
    if len(taken) == len(given) == 1:
        return (0,)
    if missing := [entry for entry in taken if entry["name"] not in names]:
        raise SignatureMismatch(
            f"the teacher takes {_told(missing)}, which the network that learns does not: it takes {_told(given)}",
            stage=STAGE,
            param=PARAM,
            hint=HINT,
        )
    return tuple(names.index(entry["name"]) for entry in taken)


def _fitting(entry: Entry, values: Tensor, indices: Tensor) -> Tensor:
    """Values as an input takes them: of its type."""
    if not _alike(entry, {"shape": list(values.shape)}):
        raise SignatureMismatch(
            f"the teacher does not take the samples: its input is {_told([entry])}, sample {int(indices[0])} has "
            f"{list(values.shape[1:])}",
            stage=STAGE,
            param=PARAM,
            hint=HINT,
        )
    return values.to(getattr(torch, entry["dtype"]))


def _alike(one: Entry, other: Entry) -> bool:
    """Whether shapes may be equal but for the first axis, which counts samples."""
    return len(one["shape"]) == len(other["shape"]) and all(
        size == found or not (isinstance(size, int) and isinstance(found, int))
        for size, found in zip(one["shape"][1:], other["shape"][1:], strict=True)
    )


def _told(entries: Sequence[Entry]) -> str:
    return ", ".join(
        f"{one['name']!r} {one['dtype']} [{', '.join(map(str, one['shape']))}]" for one in entries
    )
