"""Selections that name each sample of a batch by its number, as `mask[arange(batch), …]`, continued for any number of samples."""

from typing import NamedTuple

import torch
from torch import Tensor, fx

aten = torch.ops.aten


class Numbered(NamedTuple):
    """An index that lists samples one behind another along `axis`, `each` numbers of every sample."""

    axis: int
    each: int


def numbered(index: Tensor, size: int, below: int) -> Numbered | None:
    """How an index into an axis of `size` samples, of `below` elements each, lists all of them in the same way; None where not."""
    for axis, length in enumerate(index.shape):
        if length == 0 or length % size:
            continue
        parts = index.reshape(*index.shape[:axis], size, length // size, *index.shape[axis + 1 :])
        first = parts.narrow(axis, 0, 1)
        if bool(((first < 0) | (first >= below)).any()):
            continue
        if torch.equal(
            parts, first + below * _along(torch.arange(size, device=index.device), axis, parts.dim())
        ):
            return Numbered(axis, length // size)
    return None


def continued(
    graph: fx.Graph, index: fx.Node, rank: int, found: Numbered, below: int, count: fx.Node
) -> list[fx.Node]:
    """Nodes, the last of which is the index for `count` samples; on the device of `index`, which has `rank` axes."""
    axis, each = found
    made: list[fx.Node] = []

    def call(target: object, *args: object) -> fx.Node:
        made.append(graph.call_function(target, args))  # type: ignore[arg-type]
        return made[-1]

    first = call(aten.unsqueeze.default, call(aten.slice.Tensor, index, axis, 0, each), axis)
    numbers = call(aten.cumsum.default, call(aten.new_ones.default, index, [count]), 0)
    begins = call(aten.mul.Tensor, call(aten.sub.Tensor, numbers, 1), below)
    placed = call(aten.view.default, begins, [-1, *[1] * (rank - axis)])
    call(aten.flatten.using_ints, call(aten.add.Tensor, first, placed), axis, axis + 1)
    return made


def _along(values: Tensor, axis: int, rank: int) -> Tensor:
    return values.view([-1 if place == axis else 1 for place in range(rank)])
