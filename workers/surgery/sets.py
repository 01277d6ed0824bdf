"""Numbers that hang together: a union-find over the ids of channels, on whole tensors of ids at once."""

from collections.abc import Iterable

import torch
from torch import Tensor

FIXED = 0  # the id of what is never removed


class Sets:
    """Disjoint sets of ids. Tensors of ids have the shape of what they stand for; axes that say nothing have stride 0."""

    def __init__(self) -> None:
        self._parent = torch.zeros(1, dtype=torch.long)
        self._made: list[tuple[int, int]] = []
        self.version = 0  # goes up with every change
        self.reasons: dict[str, str] = {}  # by place: why channels that layers make were fixed

    def fresh(self, *shape: int, made: bool) -> Tensor:
        """New ids, each a set of its own. `made`: a layer makes these channels, so that they can be removed."""
        first = len(self._parent)
        count = int(torch.tensor(shape).prod())
        self._parent = torch.cat([self._parent, torch.arange(first, first + count)])
        if made:
            self._made.append((first, first + count))
        return torch.arange(first, first + count).reshape(shape)

    def of(self, ids: Tensor) -> Tensor:
        """The set of each id: its least member."""
        found = self._parent[ids]
        while not torch.equal(above := self._parent[found], found):
            found = above
        return found

    def unite(self, one: Tensor, other: Tensor) -> None:
        """Make one set of each pair of ids at the same place; shapes are broadcast."""
        one, other = slim(one), slim(other)
        shape = broadcast(one, other)
        pairs = torch.stack([one.expand(shape), other.expand(shape)])
        pairs = self.of(pairs.reshape(2, -1))
        pairs = pairs[:, pairs[0] != pairs[1]]
        while pairs.shape[1]:
            self.version += 1
            self._parent.scatter_reduce_(0, pairs.amax(0), pairs.amin(0), "amin")
            pairs = self.of(pairs)
            pairs = pairs[:, pairs[0] != pairs[1]]

    def fix(self, ids: Tensor, place: str, why: str) -> None:
        """Never remove these. The place and the reason are kept where a layer makes some of them."""
        sets = distinct(self.of(slim(ids)))
        sets = sets[sets != FIXED]
        if len(sets):
            if bool(torch.isin(sets, self.made()).any()):
                self.reasons.setdefault(place, why)
            self.unite(sets, torch.zeros_like(sets))

    def made(self) -> Tensor:
        """The sets with a channel that a layer makes, less those that are fixed; in order."""
        if not self._made:
            return torch.zeros(0, dtype=torch.long)
        found = distinct(self.of(torch.cat([torch.arange(first, end) for first, end in self._made])))
        return found[found != FIXED]

    def varying(self, ids: Tensor) -> list[int]:
        """The axes along which the sets are not the same."""
        sets = self.of(slim(ids))
        return [
            axis
            for axis, size in enumerate(sets.shape)
            if size > 1 and bool((sets != sets.narrow(axis, 0, 1)).any())
        ]

    def loose(self, ids: Tensor) -> bool:
        """Whether they stand for weights of no layer alone: these follow whatever they meet."""
        sets = distinct(self.of(slim(ids)))
        return bool((sets != FIXED).any()) and not bool(torch.isin(sets, self.made()).any())

    def unite_along(self, ids: Tensor, axes: Iterable[int]) -> None:
        """Make what differs along these axes alone one set."""
        for axis in axes:
            self.unite(ids, ids.narrow(axis, 0, 1))

    def unite_slabs(self, one: Tensor, other: Tensor, axis: int) -> None:
        """Make one set of all that stands at the same place of an axis, in both."""
        both = [slabs(ids, axis) for ids in (one, other)]
        for ids in both:
            self.unite(ids, ids[:, :1])
        self.unite(both[0][:, 0], both[1][:, 0])

    def compact(self, ids: Tensor) -> Tensor:
        """The same ids, with stride 0 along each axis along which they do not change."""
        held, shape = slim(ids), ids.shape
        for axis in range(held.dim()):
            first = held.narrow(axis, 0, 1)
            if held.shape[axis] > 1 and bool((held == first).all()):
                held = first
        return held.expand(shape)


def slim(ids: Tensor) -> Tensor:
    """One of each axis that has stride 0."""
    for axis, (stride, size) in enumerate(zip(ids.stride(), ids.shape, strict=True)):
        if stride == 0 and size > 1:
            ids = ids.narrow(axis, 0, 1)
    return ids


def slabs(ids: Tensor, axis: int) -> Tensor:
    """[size of the axis, all else], less what is there several times for its stride."""
    size = ids.shape[axis]
    moved = slim(ids).movedim(axis, 0)
    return moved.reshape(moved.shape[0], -1).expand(size, -1)


def fixed(shape: Iterable[int]) -> Tensor:
    """Ids of something that is never removed."""
    return torch.zeros((), dtype=torch.long).expand(tuple(shape))


def distinct(ids: Tensor) -> Tensor:
    """Each of them once, in order."""
    found: Tensor = torch.unique(ids)
    return found


def broadcast(one: Tensor, other: Tensor) -> torch.Size:
    """The shape that both are broadcast to."""
    shape: torch.Size = torch.broadcast_shapes(one.shape, other.shape)  # type: ignore[no-untyped-call]
    return shape
