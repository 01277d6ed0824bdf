"""What two profiles say of each other, layer by layer of the model that was uploaded. Pure.

Runtimes fuse differently, so a layer of one profile may be half of a row of the other: layers that either profile computes together
are compared together.

The profiles were made at different times, and a machine is slower at one time than at another: its clock, its neighbours. What both
compute in the same way tells by how much, and how far such layers lie apart even then: differences are counted beyond that.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from app.profiles.schemas import Layer, Profile

SAME = 0.1  # of the time before, by which a group may differ and count as the same
SMALL = 0.01  # of the larger profile's time, below which a difference is no news
ALIKE_GROUPS = 3  # computed alike, that tell how busy the machine was
ALIKE_SHARE = 0.2  # of a profile's time, that they take at least
AGREE = 0.25  # by which they may lie apart in the middle, and still tell it
NOISE = 3.0  # times that, by which a group may differ and count as the same
EXPLAINED = 0.8  # of the whole difference, that the groups named first add up to

What = Literal["faster", "slower", "same", "vanished", "new"]
Key = tuple[tuple[str, ...], str]  # what rows are compared by: see `_Groups.of`


@dataclass(frozen=True)
class Side:
    """A group in one profile: its time for one inference, and how it is computed there."""

    ms: float
    operators: tuple[str, ...]
    precisions: tuple[str, ...]
    places: tuple[str, ...]
    layouts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """A group of layers in both profiles. `layers` is empty for work that a runtime added; it is told apart by operator.

    `pace`: how many times as long as before everything took, for no reason that lies in a layer.
    """

    layers: tuple[str, ...]
    before: Side | None
    after: Side | None
    what: What
    pace: float = 1.0

    @property
    def difference_ms(self) -> float:
        """How much longer the group takes after, than it would at the pace of everything."""
        return (self.after.ms if self.after else 0.0) - self.pace * (self.before.ms if self.before else 0.0)

    @property
    def name(self) -> str:
        """The layers, or the operator of added work."""
        side = self.after or self.before
        assert side is not None
        return ", ".join(self.layers) or f"({', '.join(side.operators)})"

    @property
    def otherwise(self) -> str:
        """In what it is computed before and after, where that differs: the precision, the operator, what runs it, the layout."""
        if self.before is None or self.after is None:
            return ""
        told = []
        for noun in ("precisions", "operators", "places"):
            one, other = getattr(self.before, noun), getattr(self.after, noun)
            if one != other and one and other:
                told.append(f"{' + '.join(one)} before, {' + '.join(other)} after")
        if self.before.layouts != self.after.layouts:
            one, other = (" + ".join(side.layouts) or "plain" for side in (self.before, self.after))
            told.append(f"layout {one} before, {other} after")
        return "; ".join(told)

    @property
    def words(self) -> str:
        """What changed, for people: the time, the precision, what computes it."""
        if self.before is None or self.after is None:
            return "is not there before" if self.before is None else "is not there after"
        told = ["" if self.what == "same" else self.what, self.otherwise]
        return "; ".join(filter(None, told)) or "the same"


def changes(before: Profile, after: Profile) -> list[Change]:
    """Every group, the largest difference of times first."""
    groups = _Groups([*before.layers, *after.layers])
    first, second = (_gathered(profile.layers, groups) for profile in (before, after))
    pace, noise = (
        _pace(first, second, before.layers_ms, after.layers_ms) if _comparable(before, after) else (1.0, 0.0)
    )
    small = SMALL * max(pace * before.layers_ms, after.layers_ms)
    found = []
    for key in {**first, **second}:
        one, other = (_side(rows[key]) if key in rows else None for rows in (first, second))
        found.append(Change(key[0], one, other, _what(one, other, pace, max(SAME, noise), small), pace))
    return sorted(found, key=lambda change: (-abs(change.difference_ms), change.name))


def explaining(found: Sequence[Change]) -> list[Change]:
    """The fewest groups that differ by more than chance, whose differences make `EXPLAINED` of what all such groups differ by
    together, in its direction, the largest first."""
    news = [change for change in found if change.what != "same"]
    whole = sum(change.difference_ms for change in news)
    chosen: list[Change] = []
    explained = 0.0
    for change in sorted(news, key=lambda change: -change.difference_ms * (1 if whole > 0 else -1)):
        if abs(explained) >= EXPLAINED * abs(whole) or change.difference_ms * whole <= 0:
            break
        chosen.append(change)
        explained += change.difference_ms
    return chosen


def _comparable(before: Profile, after: Profile) -> bool:
    """Whether nothing but the model and the machine's day differ: else all layers may differ for a reason."""
    return all(
        getattr(before, name) == getattr(after, name)
        for name in ("target", "of", "batch", "threads", "versions")
    )


def _pace(
    first: Mapping[Key, Sequence[Layer]],
    second: Mapping[Key, Sequence[Layer]],
    first_ms: float,
    second_ms: float,
) -> tuple[float, float]:
    """How many times as long as before groups take that both compute alike, in the middle; and how far such groups lie from
    that, in the middle, `NOISE` times. (1, 0) where too few tell, or they do not agree."""
    alike = [key for key in first if key in second and _how(first[key]) == _how(second[key])]
    times = [(_ms(first[key]), _ms(second[key])) for key in alike]
    times = [
        (one, other)
        for one, other in times
        if min(one, other) > 0 and (one > SMALL * first_ms or other > SMALL * second_ms)
    ]
    # of the one where they are more: a layer that became much slower leaves them little of the other
    share = (
        max(sum(one for one, _ in times) / first_ms, sum(other for _, other in times) / second_ms)
        if times
        else 0.0
    )
    if len(times) < ALIKE_GROUPS or share < ALIKE_SHARE:
        return 1.0, 0.0
    pace = median(other / one for one, other in times)
    apart = median(abs(other / (pace * one) - 1) for one, other in times)
    if apart > AGREE:
        return 1.0, 0.0
    return (pace if abs(pace - 1) > SAME else 1.0), NOISE * apart


def _how(rows: Sequence[Layer]) -> list[tuple[object, ...]]:
    """What rows compute and in what way, but for the time it takes."""
    return sorted(
        (row.operator, row.precision or "", row.place or "", row.layout or "", row.calls, row.output or [],
         row.flops or 0, row.moved_bytes or 0)
        for row in rows
    )  # fmt: skip


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

    def of(self, row: Layer) -> Key:
        """What a row is compared by: its group's layers, or its operator where it has no layer."""
        if not row.layers:
            return (), row.operator
        return tuple(self._members[self._find(row.layers[0])]), ""

    def _find(self, name: str) -> str:
        while self._leader[name] != name:
            self._leader[name] = name = self._leader[self._leader[name]]
        return name


def _gathered(rows: Sequence[Layer], groups: _Groups) -> dict[Key, list[Layer]]:
    gathered: dict[Key, list[Layer]] = {}
    for row in rows:
        gathered.setdefault(groups.of(row), []).append(row)
    return gathered


def _ms(rows: Sequence[Layer]) -> float:
    return sum(row.mean_ms for row in rows)


def _side(rows: Sequence[Layer]) -> Side:
    return Side(
        _ms(rows),
        _listed(row.operator for row in rows),
        _listed(row.precision for row in rows),
        _listed(row.place for row in rows),
        _listed(row.layout for row in rows),
    )


def _listed(values: Iterator[str | None]) -> tuple[str, ...]:
    return tuple(sorted({value for value in values if value}))


def _what(before: Side | None, after: Side | None, pace: float, noise: float, small: float) -> What:
    if before is None:
        return "new"
    if after is None:
        return "vanished"
    expected = pace * before.ms
    if abs(after.ms - expected) <= max(noise * expected, small):
        return "same"
    return "slower" if after.ms > expected else "faster"
