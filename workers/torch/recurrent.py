"""Recurrent layers stay one operator in an exported program, so that the length of a sequence stays free.

torch decomposes `aten.lstm` and `aten.gru` while it traces, step by step for the length at hand, even where the program
keeps the operator: shapes alone are needed there. Seen in torch 2.13 (torch/_decomp/decompositions.py: lstm_impl).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._decomp import decomposition_table

_KEYS = (
    torch._C.DispatchKey.Autograd,
    torch._C.DispatchKey.CompositeImplicitAutograd,
    torch._C.DispatchKey.Meta,
)


@contextmanager
def recurrent_whole() -> Iterator[None]:
    """While programs are traced or decomposed, LSTM and GRU say their outputs' shapes and are left as they are."""
    kept = {}
    try:
        for operator, shapes in _SHAPES.items():
            kept[operator] = (decomposition_table[operator], dict(operator.py_kernels))
            decomposition_table[operator] = shapes
            operator.py_kernels.update(dict.fromkeys(_KEYS, shapes))
            operator._dispatch_cache.clear()
        yield
    finally:
        for operator, (decomposition, kernels) in kept.items():
            decomposition_table[operator] = decomposition
            operator.py_kernels.clear()
            operator.py_kernels.update(kernels)
            operator._dispatch_cache.clear()


def _lstm(
    x: torch.Tensor,
    state: Any,
    params: Any,
    biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    both: bool,
    first: bool,
) -> tuple[torch.Tensor, ...]:
    hidden, cell = state
    return _outputs(x, hidden, both), torch.empty_like(hidden), torch.empty_like(cell)


def _gru(
    x: torch.Tensor,
    state: Any,
    params: Any,
    biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    both: bool,
    first: bool,
) -> tuple[torch.Tensor, ...]:
    return _outputs(x, state, both), torch.empty_like(state)


def _outputs(x: torch.Tensor, hidden: torch.Tensor, both: bool) -> torch.Tensor:
    """What a recurrent layer gives: as its input, but as wide as its hidden state in all directions."""
    return x.new_empty((*x.shape[:2], hidden.shape[-1] * (2 if both else 1)))


_SHAPES = {torch.ops.aten.lstm.input: _lstm, torch.ops.aten.gru.input: _gru}
