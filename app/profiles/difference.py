"""What two profiles say of each other, layer by layer of the model that was uploaded. Pure.

Runtimes fuse differently, so a layer of one profile may be half of a row of the other: layers that either profile computes together
are compared together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from app.profiles.schemas import Layer, Profile

SAME = 0.1  # of the time before, by which a group may differ and count as the same
SMALL = 0.01  # of the larger profile's time, below which a difference is no news
EXPLAINED = 0.8  # of the whole difference, that the groups named first add up to

What = Literal["faster", "slower", "same", "vanished", "new"]


@dataclass(frozen=True)
class Side:
    """A group in one profile: its time for one inference, and how it is computed there."""

    ms: float
    operators: tuple[str, ...]
    precisions: tuple[str, ...]
    places: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """A group of layers in both profiles. `layers` is empty for work that a runtime added; it is told apart by operator."""

    layers: tuple[str, ...]
    before: Side | None
    after: Side | None
    what: What

    @property
    def difference_ms(self) -> float:
        """How much longer the group takes after."""
        return (self.after.ms if self.after else 0.0) - (self.before.ms if self.before else 0.0)

    @property
    def name(self) -> str:
        """The layers, or the operator of added work."""
        side = self.after or self.before
        assert side is not None
        return ", ".join(self.layers) or f"({', '.join(side.operators)})"

    @property
    def words(self) -> str:
        """What changed, for people: the time, the precision, what computes it."""
        if self.before is None or self.after is None:
            return "is not there before" if self.before is None else "is not there after"
        told: list[str] = [] if self.what == "same" else [self.what]
        for noun in ("precisions", "operators", "places"):
            one, other = getattr(self.before, noun), getattr(self.after, noun)
            if one != other and one and other:
                told.append(f"{' + '.join(one)} before, {' + '.join(other)} after")
        return "; ".join(told) or "the same"


def changes(before: Profile, after: Profile) -> list[Change]:
    """Every group, the largest difference of times first."""
    groups = _Groups([*before.layers, *after.layers])
    sides = [_sides(profile.layers, groups) for profile in (before, after)]
    small = SMALL * max(before.layers_ms, after.layers_ms)
    found = []
    for key in {**sides[0], **sides[1]}:
        one, other = sides[0].get(key), sides[1].get(key)
        found.append(Change(key[0], one, other, _what(one, other, small)))
    return sorted(found, key=lambda change: (-abs(change.difference_ms), change.name))


def explaining(found: Sequence[Change]) -> list[Change]:
    """The fewest groups whose differences make `EXPLAINED` of the whole difference, in its direction, the largest first."""
    whole = sum(change.difference_ms for change in found)
    chosen: list[Change] = []
    explained = 0.0
    for change in sorted(found, key=lambda change: -change.difference_ms * (1 if whole > 0 else -1)):
        if abs(explained) >= EXPLAINED * abs(whole) or change.difference_ms * whole <= 0:
            break
        chosen.append(change)
        explained += change.difference_ms
    return chosen


class _Groups:
    """Layers that some row computes together are of one group."""

    def __init__(self, rows: Sequence[Layer]):
        self._leader: dict[str, str] = {}
        order: dict[str, int] = {}
        for row in rows:
            for name in row.layers:
                order.setdefault(name, len(order))
                self._leader.setdefault(name, name)
            for name in row.layers[1:]:
                self._leader[self._find(name)] = self._find(row.layers[0])
        self._members: dict[str, list[str]] = {}
        for name in sorted(order, key=order.__getitem__):
            self._members.setdefault(self._find(name), []).append(name)

    def of(self, row: Layer) -> tuple[tuple[str, ...], str]:
        """What a row is compared by: its group's layers, or its operator where it has no layer."""
        if not row.layers:
            return (), row.operator
        return tuple(self._members[self._find(row.layers[0])]), ""

    def _find(self, name: str) -> str:
        while self._leader[name] != name:
            self._leader[name] = name = self._leader[self._leader[name]]
        return name


def _sides(rows: Sequence[Layer], groups: _Groups) -> dict[tuple[tuple[str, ...], str], Side]:
    gathered: dict[tuple[tuple[str, ...], str], list[Layer]] = {}
    for row in rows:
        gathered.setdefault(groups.of(row), []).append(row)
    return {
        key: Side(
            sum(row.mean_ms for row in found),
            _listed(row.operator for row in found),
            _listed(row.precision for row in found),
            _listed(row.place for row in found),
        )
        for key, found in gathered.items()
    }


def _listed(values: Iterator[str | None]) -> tuple[str, ...]:
    return tuple(sorted({value for value in values if value}))


def _what(before: Side | None, after: Side | None, small: float) -> What:
    if before is None:
        return "new"
    if after is None:
        return "vanished"
    if abs(after.ms - before.ms) <= max(SAME * before.ms, small):
        return "same"
    return "slower" if after.ms > before.ms else "faster"
