"""What must hold between channels so that a network stays one when some are removed: settled after the graph has been run.

A bond makes sets of ids larger until removing any set leaves every tensor a grid: whole slices of one axis go, or nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from workers.surgery.sets import FIXED, Sets, distinct, slim


class Bond(Protocol):
    """Something that must hold."""

    def settle(self, sets: Sets) -> None:
        """Unite what it takes."""
        ...


@dataclass(frozen=True)
class Grid:
    """The sets of a tensor differ along one axis at most.

    Where they do along several, they become one along all but one: along which the most sets are left. So a channel shuffle
    keeps the same places of every group, and heads of attention, which are one set each by then, go as a whole.
    """

    ids: Tensor
    place: str

    def settle(self, sets: Sets) -> None:
        """See `Bond.settle`."""
        axes = sets.varying(self.ids)
        if len(axes) < 2 or sets.loose(self.ids):
            return
        best = max(axes, key=lambda axis: (_left(sets, [self.ids], axes, axis), axis))
        sets.unite_along(self.ids, [axis for axis in axes if axis != best])


@dataclass(frozen=True)
class Only:
    """What differs along other axes than these is fixed."""

    ids: Tensor
    axes: frozenset[int]
    place: str

    def settle(self, sets: Sets) -> None:
        """See `Bond.settle`."""
        if set(sets.varying(self.ids)) - self.axes:
            sets.fix(self.ids, self.place, "channels lie on an axis that it works along")


@dataclass(frozen=True)
class Meeting:
    """Two tensors of one rank, one of which is broadcast along an axis of the other's channels, fit each other."""

    one: Tensor
    other: Tensor
    place: str

    def settle(self, sets: Sets) -> None:
        """See `Bond.settle`."""
        for ids, beside in ((self.one, self.other), (self.other, self.one)):
            for axis in sets.varying(ids):
                if beside.shape[axis] == 1 or sets.loose(ids):
                    continue
                if set(sets.varying(beside)) == {axis} or sets.loose(beside):
                    sets.unite_slabs(ids, beside, axis)
                else:
                    sets.fix(ids, self.place, "it meets values that have the same size and other channels")


@dataclass(frozen=True)
class Groups:
    """Inputs and outputs of groups, [groups, channels of one]: groups stay of one size, or go as a whole."""

    inputs: Tensor
    outputs: Tensor
    place: str

    def settle(self, sets: Sets) -> None:
        """See `Bond.settle`."""
        sides = [self.inputs, self.outputs]
        inner = [sets.varying(ids) for ids in sides]
        if all(set(axes) <= {1} for axes in inner):
            return
        wholes = _whole(sets, sides)
        places = sum(_left(sets, [ids], [0, 1], 1) for ids in sides)
        if wholes > places:
            sets.unite_slabs(self.inputs, self.outputs, 0)
        else:
            for ids in sides:
                sets.unite_along(ids, [0])


def settle(sets: Sets, bonds: Sequence[Bond]) -> None:
    """Hold all bonds. Those that choose an axis come first, those that fix what fits no choice after them."""
    choosing: list[Bond] = [bond for bond in bonds if isinstance(bond, Grid | Groups)]
    fixing = [bond for bond in bonds if not isinstance(bond, Grid | Groups)]
    while True:
        before = sets.version
        for bond in choosing:
            bond.settle(sets)
        if sets.version != before:
            continue
        for bond in fixing:
            bond.settle(sets)
            if sets.version != before:
                break
        if sets.version == before:
            return


def _left(sets: Sets, tensors: Sequence[Tensor], axes: Sequence[int], kept: int) -> int:
    """How many sets that can be removed are left where those become one that differ along `axes` without `kept`."""
    trial = Sets()
    compressed = _renumbered(sets, tensors, trial)
    for ids in compressed:
        trial.unite_along(ids, [axis for axis in axes if axis != kept])
    return _count(trial, compressed)


def _whole(sets: Sets, sides: Sequence[Tensor]) -> int:
    trial = Sets()
    inputs, outputs = _renumbered(sets, sides, trial)
    trial.unite_slabs(inputs, outputs, 0)
    return _count(trial, [inputs, outputs])


def _renumbered(sets: Sets, tensors: Sequence[Tensor], trial: Sets) -> list[Tensor]:
    """The sets of tensors under small numbers; what is fixed stays so."""
    held = [sets.of(slim(ids)) for ids in tensors]
    numbers: dict[int, int] = {FIXED: FIXED}
    for ids in held:
        for one in distinct(ids).tolist():
            numbers.setdefault(one, len(numbers))
    trial.fresh(len(numbers) - 1, made=True)
    return [
        ids.clone().apply_(lambda one: numbers[one]).expand(before.shape)
        for ids, before in zip(held, tensors, strict=True)
    ]


def _count(trial: Sets, tensors: Sequence[Tensor]) -> int:
    found = {one for ids in tensors for one in distinct(trial.of(slim(ids))).tolist()}
    return len(found - {FIXED})
