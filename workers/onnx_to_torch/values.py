"""What flows between operators: tensors, and small vectors of numbers that shapes are computed with.

A shape that were a tensor would be data to `torch.export`, and every dimension read from it unknown. As Python numbers (or
the symbols that stand for them while a program is traced) they stay what they are: sizes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST_NUMBERS = 64  # a longer vector is data, not a shape
_STORED_ONLY = frozenset((torch.uint16, torch.uint32, torch.uint64))
Ints = tuple[int, ...]
Floats = tuple[float, ...]


@dataclass(frozen=True)
class Numbers:
    """A scalar (`rank` 0, one value) or a vector (`rank` 1) of Python numbers, with the type that it has in ONNX."""

    values: tuple[Any, ...]
    rank: int = 1
    dtype: torch.dtype = torch.int64

    def tensor(self, device: torch.device | None = None) -> Tensor:
        """The same as a tensor."""
        if any(isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool) for value in self.values):
            stacked = torch.stack(
                [torch.scalar_tensor(v, dtype=self.dtype, device=device) for v in self.values]
            )
            return stacked if self.rank else stacked[0]
        values = list(self.values) if self.rank else self.values[0]
        return torch.tensor(values, dtype=self.dtype, device=device)

    def like(self, values: Sequence[Any], dtype: torch.dtype | None = None) -> "Numbers":
        """Other values of the same rank."""
        kind = dtype or self.dtype
        return Numbers(tuple(rounded(value, kind) for value in values), self.rank, kind)


Value = Tensor | Numbers


def numbers(values: Sequence[Any], rank: int, dtype: torch.dtype) -> Numbers:
    """`Numbers` of these values, for graphs: a constant of theirs."""
    return Numbers(tuple(values), rank, dtype)


def known(tensor: Tensor) -> Value:
    """A constant as numbers where it is a scalar, or a short vector of whole numbers or truth values."""
    short = tensor.numel() <= (1 if tensor.is_floating_point() else MOST_NUMBERS)
    if tensor.ndim > 1 or not short or tensor.is_complex():
        return tensor
    flat = tensor.reshape(-1).tolist()
    return Numbers(tuple(flat), tensor.ndim, tensor.dtype)


def rounded(value: Any, dtype: torch.dtype) -> Any:
    """A number as single precision would hold it, where that is its type."""
    return float(np.float32(value)) if dtype == torch.float32 and type(value) is float else value


def tensor_of(value: Any, device: torch.device | None = None) -> Any:
    """Numbers as a tensor; everything else as it is."""
    return value.tensor(device) if isinstance(value, Numbers) else value


def device_of(values: Sequence[Any]) -> torch.device | None:
    """Where the first tensor among these values lies."""
    return next((value.device for value in values if isinstance(value, Tensor)), None)


def sizes(value: Any) -> Any:
    """What an operator reads as plain numbers: a tuple of them, or None."""
    if isinstance(value, Numbers):
        return value.values
    if isinstance(value, Tensor):
        return tuple(value.reshape(-1).tolist())
    return value


def shape_of(value: Any) -> tuple[int, ...]:
    """The dimensions of a value."""
    if isinstance(value, Numbers):
        return (len(value.values),) if value.rank else ()
    return tuple(value.shape)


def all_numbers(values: Sequence[Any]) -> bool:
    """Whether no value is a tensor."""
    return all(isinstance(value, Numbers) for value in values)


def together(
    a: Numbers, b: Numbers, compute: Callable[[Any, Any], Any], dtype: torch.dtype | None
) -> Numbers:
    """`compute` for each pair, a single value with each."""
    length = max(len(a.values), len(b.values)) if a.values and b.values else 0
    left = a.values * length if len(a.values) == 1 else a.values
    right = b.values * length if len(b.values) == 1 else b.values
    pairs = zip(left, right, strict=True)
    kind = dtype or a.dtype
    values = tuple(rounded(compute(x, y), kind) for x, y in pairs)
    return Numbers(values, max(a.rank, b.rank), kind)


def operand(value: Any, other: Any) -> Any:
    """One side of an operation with a tensor: a lone number as itself, so that no tensor is made for it."""
    if not isinstance(value, Numbers):
        return value
    if len(value.values) == 1 and value.rank <= other.ndim and not other.is_complex():
        return value.values[0]
    return value.tensor(other.device)


def pairwise(
    a: Value,
    b: Value,
    compute: Callable[[Any, Any], Any],
    *,
    plain: Callable[[Any, Any], Any] | None = None,
    dtype: torch.dtype | None = None,
) -> Value:
    """`compute` of two values that broadcast; of numbers alone by `plain`, and then still numbers."""
    if isinstance(a, Numbers) and isinstance(b, Numbers):
        try:
            return together(a, b, plain or compute, dtype)
        except ZeroDivisionError:
            return torch.as_tensor(compute(a.tensor(), b.tensor()))
    left = operand(a, b) if isinstance(b, Tensor) else a
    right = operand(b, a) if isinstance(a, Tensor) else b
    return torch.as_tensor(of_wide(compute)(left, right))


def of_wide(compute: Callable[..., Any]) -> Callable[..., Any]:
    """`compute` for the unsigned types too, of which PyTorch only stores the wider ones: in 64 bits, then back."""

    def computed(*values: Any) -> Any:
        kind = next((v.dtype for v in values if isinstance(v, Tensor) and v.dtype in _STORED_ONLY), None)
        if kind is None:
            return compute(*values)
        found = compute(*(v.to(torch.int64) if isinstance(v, Tensor) else v for v in values))
        return found if found.dtype == torch.bool else found.to(kind)

    return computed
