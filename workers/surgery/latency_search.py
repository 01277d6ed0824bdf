"""A network that takes a share of the latency, looked for among those that a choice of channels offers.

Networks lie on paths, from slow to fast: one more unit goes at each place. The first path takes units in the order of what they
are worth. On it the place is looked for where networks turn from too slow to fast enough; FLOPs are the way there, as latency
is taken for a power of them. Where one step leaps over the share, as kernels compute channels in blocks and some widths
better than others, the layers that leap stay as they are, on one side of the leap or on the other, and a path of all other
layers begins there: towards fewer channels on the slow side, towards more on the fast side, at the nearer end first.
Latency need not fall with FLOPs for that: between a network that is too slow and one that is fast enough there is a turn on every path.

Times are noisy. A network is measured again while the interval of its time holds an edge of what counts as within the
tolerance, so that luck neither takes nor refuses it; its time is then that of all its measurements. Where that does not
decide it, it is only taken if nothing better is found.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import exp, log, sqrt
from statistics import mean
from typing import Any

from app.measurements.compare import Interval
from workers.surgery.choice import Choice

TOLERANCE = 0.05
MOST_MEASUREMENTS = 30  # each is a build, and launches of both networks
REPEATS, CONFIRMED = 4, 2  # measurements of one network: at most, and at least of one that is taken
INWARDS = 0.2  # of the FLOPs between a slow and a fast network: tries keep so far from both, and half as far in places
POWERS = 0.25, 2.0  # of FLOPs that latency is taken for
LEAST = 1e-9  # a share of the FLOPs: of networks that have none
Units = frozenset[int]


@dataclass
class Network:
    """What is left without some units: its share of the FLOPs, and what was measured of its share of the latency."""

    units: Units
    flops: float
    seen: list[Interval] = field(default_factory=list)

    @property
    def share(self) -> Interval:
        """Of all measurements: their geometric mean; one that strays from the others widens the interval by as much."""
        logs = [log(one.value) for one in self.seen]
        middle = mean(logs)
        halves = [
            max(log(one.high / one.low) / 2, abs(value - middle))
            for one, value in zip(self.seen, logs, strict=True)
        ]
        half = sqrt(sum(one**2 for one in halves)) / len(halves)
        return Interval(*(exp(value) for value in (middle, middle - half, middle + half)))


@dataclass(frozen=True)
class Found:
    """The network to take. `met`: it is within the tolerance. Else it is the nearest fast one, or the first if that is too fast."""

    network: Network
    met: bool
    slower: Network | None  # the nearest one that was too slow


class Path:
    """Networks from slow to fast: without `base` and the first of `order`, rounded."""

    def __init__(self, choice: Choice, base: Units, order: Sequence[int]):
        self._choice, self._base, self._order = choice, base, order
        self._known: dict[int, Units] = {}

    def __len__(self) -> int:
        return len(self._order) + 1

    def at(self, count: int) -> Units:
        """What is removed at a place."""
        if count not in self._known:
            self._known[count] = frozenset(self._choice.rounded(self._base | set(self._order[:count])))
        return self._known[count]

    def places(self, low: int, high: int, slow: Network | None, fast: Network | None) -> range:
        """Those between two places, less those at the ends whose networks are these: rounding makes several one."""
        first = bisect_left(
            range(high), True, lo=low + 1, key=lambda place: slow is None or self.at(place) != slow.units
        )
        end = bisect_left(
            range(high), True, lo=first, key=lambda place: fast is not None and self.at(place) == fast.units
        )
        return range(first, end)


class Search:
    """See the module. `cost` tells the share of the FLOPs that is left without units, `time` measures that of the latency, `tell`
    hears of each measurement.
    """

    def __init__(
        self,
        choice: Choice,
        cost: Callable[[set[int]], float],
        time: Callable[[set[int]], Interval],
        share: float,
        tell: Callable[[dict[str, Any]], None],
    ):
        self._choice, self._cost, self._time, self._share, self._tell = choice, cost, time, share, tell
        self._aim = share * (1 - TOLERANCE / 2)
        self._networks: dict[Units, Network] = {}
        self._left = MOST_MEASUREMENTS
        self._found: Network | None = None
        self._ends: list[tuple[int, float, int, Network, Units]] = []  # the next one first
        self._noted: set[tuple[Units, Units]] = set()

    def run(self) -> Found:
        """Search until a network is within the tolerance, no path is left, or enough was measured."""
        whole = Path(self._choice, frozenset(), self._choice.order)
        self._walk(whole, None, None, frozenset())
        while self._ends and not self._over:
            *_, end, still = heappop(self._ends)
            is_slow = end.share.value > self._share
            order = [
                unit for unit in self._choice.order if unit not in still and (unit in end.units) != is_slow
            ]
            path = Path(self._choice, end.units - set(order), order)
            self._walk(path, end if is_slow else None, None if is_slow else end, still)
        return self._best()

    @property
    def _over(self) -> bool:
        return self._found is not None or self._left <= 0

    def _walk(self, path: Path, slow: Network | None, fast: Network | None, still: Units) -> None:
        """Look for the turn from slow to fast on a path; both of its sides are where other paths begin. `still`: units that stay."""
        low, high, missed = 0 if slow else -1, len(path) - 1 if fast else len(path), 0
        while not self._over and (places := path.places(low, high, slow, fast)):
            place = self._place(path, places, slow, fast, missed)
            one = self._measured(path.at(place))
            if one.share.value > self._share:
                low, slow = place, one
            else:
                high, fast = place, one
            missed += slow is None or fast is None
        if slow is not None and fast is not None:
            self._note(slow, fast, still)

    def _note(self, slow: Network, fast: Network, still: Units) -> None:
        """Note where paths begin beside a leap: the layers that leapt stay with all that stay already, and later alone."""
        leapt = self._choice.families(slow.units ^ fast.units)
        for later, stay in enumerate((still | leapt, leapt)):
            for network in (slow, fast):
                if (network.units, stay) not in self._noted:
                    self._noted.add((network.units, stay))
                    distance = abs(log(network.share.value / self._share))
                    heappush(self._ends, (later, distance, len(self._noted), network, stay))

    def _place(
        self, path: Path, places: range, slow: Network | None, fast: Network | None, missed: int
    ) -> int:
        """Where the latency aimed at is expected; the further from the end that is known, the more often it was not there."""
        if slow is not None and fast is not None:
            long, short = log(slow.share.value), log(fast.share.value)
            part = min(max((long - log(self._aim)) / (long - short), INWARDS), 1 - INWARDS)
            flops = exp(log(slow.flops) + part * log(fast.flops / slow.flops))
            ends = int(len(places) * INWARDS / 2)
            return min(max(self._nearest(path, places, flops), places[ends]), places[-1 - ends])
        known = slow or fast
        flops, share = (known.flops, known.share.value) if known else (1.0, 1.0)
        place = self._nearest(path, places, flops * (self._aim / share) ** (1 / self._power()))
        skipped = missed * len(places) // 4
        first, last = places[0], places[-1]
        return (
            min(max(place, first + skipped), last) if fast is None else max(min(place, last - skipped), first)
        )

    def _nearest(self, path: Path, places: range, flops: float) -> int:
        """The first of the places that leaves at most these FLOPs, or the last."""
        found = bisect_left(places, True, key=lambda place: self._flops(path.at(place)) <= flops)
        return places[min(found, len(places) - 1)]

    def _power(self) -> float:
        """The power of the FLOPs that the measured networks follow, by least squares through the whole network."""
        points = [(log(one.flops), log(one.share.value)) for one in self._networks.values() if one.flops < 1]
        if not points:
            return 1.0
        found = sum(x * y for x, y in points) / sum(x * x for x, _ in points)
        return min(max(found, POWERS[0]), POWERS[1])

    def _flops(self, units: Units) -> float:
        return self._networks[units].flops if units in self._networks else max(self._cost(set(units)), LEAST)

    def _measured(self, units: Units) -> Network:
        """A network with its time; measured again while its interval holds an edge of the tolerance."""
        one = self._networks.get(units)
        if one is None:
            one = self._networks[units] = Network(units, self._flops(units))
            if not units and one.flops == 1:
                one.seen.append(Interval(1.0, 1.0, 1.0))
                return one
            self._measure(one)
            while self._left > 0 and len(one.seen) < REPEATS and self._undecided(one):
                self._measure(one)
            if self._near(one) and not self._undecided(one):
                self._found = one
        return one

    def _measure(self, one: Network) -> None:
        seen = self._time(set(one.units))
        one.seen.append(seen)
        self._left -= 1
        self._tell({"flops": one.flops, "latency": seen.value, "low": seen.low, "high": seen.high})

    def _near(self, one: Network) -> bool:
        return abs(one.share.value / self._share - 1) <= TOLERANCE

    def _undecided(self, one: Network) -> bool:
        """Whether its interval holds an edge of the tolerance, or luck may have put it within."""
        edges = self._share * (1 - TOLERANCE), self._share * (1 + TOLERANCE)
        return any(one.share.low < edge < one.share.high for edge in edges) or (
            self._near(one) and len(one.seen) < CONFIRMED
        )

    def _best(self) -> Found:
        measured = sorted(self._networks.values(), key=lambda one: one.share.value)
        fast = [one for one in measured if one.share.value <= self._share]
        slow = [one for one in measured if one.share.value > self._share]
        near = [one for one in measured if self._near(one)]
        nearest = min(near, key=lambda one: abs(log(one.share.value / self._share)), default=None)
        best = self._found or nearest or (fast[-1] if fast else slow[0])
        return Found(best, self._near(best), next((one for one in slow if one is not best), None))
