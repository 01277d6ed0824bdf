"""Which units go first, and how many: by what they are worth, so that every layer keeps enough."""

from collections import Counter
from collections.abc import Iterable
from math import ceil

from workers.surgery.channels import Coupling
from workers.surgery.importance import Scores

ROUNDING = 1e-9  # of shares that are fractions of small numbers


class Choice:
    """Units in the order in which they go; of each layer a share stays, and a multiple of `round_to`."""

    def __init__(self, coupling: Coupling, scores: Scores, *, per_layer: bool, keep: float, round_to: int):
        self._scores, self._per_layer, self._round_to = scores, per_layer, round_to
        self._layers = [Counter(sets.tolist()) for sets in coupling.layers.values()]
        guarded = [Counter(sets.tolist()) for sets in coupling.guarded]
        least = [
            max(1, ceil(keep * sum(sets.values()))) if number < len(self._layers) else 1
            for number, sets in enumerate(guarded)
        ]
        self._guards = _by_unit(guarded)
        self._room = [sum(sets.values()) - fewest for sets, fewest in zip(guarded, least, strict=True)]
        self._families = _families(coupling, scores)
        self._rank = _ranks_in(self._families, scores) if per_layer else _ranks(scores)
        self.order = self._feasible(sorted(scores, key=lambda unit: (self._rank[unit], scores[unit], unit)))

    def share(self, ratio: float) -> tuple[int, float]:
        """How many of `order` a share of all units is (per layer: of each layer's), and the largest share up to it that can go."""
        wanted = [unit for unit, rank in self._rank.items() if rank <= ratio + ROUNDING]
        if not self._per_layer:
            count = min(len(wanted), len(self.order))
            return count, ratio if count == len(wanted) else count / len(self._rank)
        refused = set(wanted) - set(self.order)
        if refused:
            lowest = min(self._rank[unit] for unit in refused)
            ratio = max((rank for rank in self._rank.values() if rank < lowest - ROUNDING), default=0.0)
        return sum(self._rank[unit] <= ratio + ROUNDING for unit in self.order), ratio

    def first(self, count: int) -> set[int]:
        """The units that go when the first `count` may; some stay, so that what is left is a multiple."""
        return self.rounded(self.order[:count])

    def rounded(self, units: Iterable[int]) -> set[int]:
        """Those of these units that go, so that what is left is a multiple."""
        removed = set(units)
        while self._round_to > 1 and (back := self._given_back(removed)):
            removed -= back
        return removed

    def families(self, units: Iterable[int]) -> frozenset[int]:
        """All units of the layers that have any of these: layers that share units are one."""
        asked = set(units)
        return frozenset().union(*(family for family in self._families if family & asked))

    def _feasible(self, units: list[int]) -> list[int]:
        """The order without those that would leave a layer too little."""
        room, found = list(self._room), []
        for unit in units:
            taken = self._guards[unit]
            if all(room[guard] >= count for guard, count in taken):
                found.append(unit)
                for guard, count in taken:
                    room[guard] -= count
        return found

    def _given_back(self, removed: set[int]) -> set[int]:
        """Units of the first layer that does not keep a multiple: those worth most, until it does."""
        for sets in self._layers:
            gone = [unit for unit in sets if unit in removed]
            total = sum(sets.values())
            kept = total - sum(sets[unit] for unit in gone)
            if not gone or kept % self._round_to == 0:
                continue
            back = set()
            for unit in sorted(gone, key=lambda unit: (self._scores[unit], unit), reverse=True):
                back.add(unit)
                kept += sets[unit]
                if kept % self._round_to == 0:
                    break
            return back
        return set()


def _by_unit(groups: list[Counter[int]]) -> dict[int, list[tuple[int, int]]]:
    """For each unit the numbers of the groups that it is in, and how often."""
    found: dict[int, list[tuple[int, int]]] = {}
    for number, sets in enumerate(groups):
        for unit, count in sets.items():
            found.setdefault(unit, []).append((number, count))
    return found


def _ranks(scores: Scores) -> dict[int, float]:
    """The share of all units that is gone with each."""
    ordered = sorted(scores, key=lambda unit: (scores[unit], unit))
    return {unit: (place + 1) / len(ordered) for place, unit in enumerate(ordered)}


def _families(coupling: Coupling, scores: Scores) -> list[set[int]]:
    """The units of each layer; layers that share units are one."""
    families: list[set[int]] = []
    for sets in coupling.layers.values():
        units = {unit for unit in sets.tolist() if unit in scores}
        joined = [one for one in families if one & units]
        families = [one for one in families if not one & units] + [units.union(*joined)]
    return families


def _ranks_in(families: list[set[int]], scores: Scores) -> dict[int, float]:
    """The share that is gone with each unit of those of its family."""
    found: dict[int, float] = {}
    for units in families:
        found |= _ranks({unit: scores[unit] for unit in units})
    return found
