"""Sequences of tensors, as lists."""

from typing import Any

import torch
from torch import Tensor

from workers.onnx_to_torch.registry import operator
from workers.onnx_to_torch.values import Ints, Numbers, Value, shape_of, sizes, tensor_of


@operator("SequenceConstruct", folds=False)
def sequence_construct(*values: Value) -> list[Any]:
    return list(values)


@operator("SequenceEmpty", folds=False)
def sequence_empty(*, dtype: int = 1) -> list[Any]:
    return []


@operator("SequenceInsert", folds=False)
def sequence_insert(values: Any, value: Value, place: Ints | None = None) -> list[Any]:
    found = list(values)
    at = len(found) if place is None else place[0] + (len(found) if place[0] < 0 else 0)
    found.insert(at, value)
    return found


@operator("SequenceErase", folds=False)
def sequence_erase(values: Any, place: Ints | None = None) -> list[Any]:
    found = list(values)
    del found[-1 if place is None else place[0]]
    return found


@operator("SequenceAt", folds=False)
def sequence_at(values: Any, place: Ints) -> Any:
    return values[place[0]]


@operator("SequenceLength", folds=False)
def sequence_length(values: Any) -> Numbers:
    return Numbers((len(values),), 0)


@operator("SplitToSequence", folds=False)
def split_to_sequence(
    x: Tensor, parts: Value | None = None, *, axis: int = 0, keepdims: int = 1
) -> list[Tensor]:
    if parts is None:
        return list(torch.split(x, 1, axis)) if keepdims else list(torch.unbind(x, axis))
    one, lengths = not shape_of(parts), sizes(parts)
    return list(torch.split(x, lengths[0] if one else list(lengths), axis))


@operator("ConcatFromSequence", folds=False)
def concat_from_sequence(values: Any, *, axis: int, new_axis: int = 0) -> Tensor:
    parts = [tensor_of(value) for value in values]
    return torch.stack(parts, axis) if new_axis else torch.cat(parts, axis)
