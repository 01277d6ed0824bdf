"""How many units must go until a network costs a share of what it did."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import exp, floor, log
from typing import Any

from app.errors import IncompatibleRecipe
from app.measurements.compare import Interval
from workers.surgery.channels import STAGE
from workers.surgery.choice import Choice

LATENCY_TOLERANCE = 0.05
MOST_TRIES = 8  # of latency: each is a build and a measurement
ROUNDING = 1e-9  # of shares

Try = tuple[float, float, set[int]]  # shares of FLOPs and of latency without these units


@dataclass(frozen=True)
class Reached:
    """The units that go, and the share that stays then."""

    units: set[int]
    share: float


def by_ratio(choice: Choice, ratio: float) -> set[int]:
    """The units with a share of all units (per layer: of their layer's) that may go.

    Raises:
        IncompatibleRecipe: layers would keep less than they must.
    """
    count, reached = choice.share(ratio)
    if reached < ratio:
        raise IncompatibleRecipe(
            f"ratio={ratio:g} cannot be reached: some layers would keep less than they must; {reached:.3g} can",
            stage=STAGE,
            param="ratio",
            hint=f"lower ratio to {floor(reached * 1000) / 1000:g}, or lower `keep`",
        )
    return choice.first(count)


def by_cost(choice: Choice, cost: Callable[[set[int]], float], share: float, what: str) -> Reached:
    """The fewest units that leave at most a share of a cost, which `cost` tells for units that go (1: nothing has gone).

    Raises:
        IncompatibleRecipe: the share is out of reach; the nearest one is told.
    """
    low, high = 0, len(choice.order)
    least = cost(choice.first(high))
    if least > share:
        raise _out_of_reach(what, share, least)
    reached = least
    while low < high:
        middle = (low + high) // 2
        value = cost(choice.first(middle))
        if value <= share:
            high, reached = middle, value
        else:
            low = middle + 1
    return Reached(choice.first(high), reached)


def by_latency(
    choice: Choice,
    cost: Callable[[set[int]], float],
    time: Callable[[set[int]], Interval],
    share: float,
    tell: Callable[[dict[str, Any]], None],
) -> Reached:
    """Units that leave a share of the latency, within `LATENCY_TOLERANCE` of it; `time` tells its share for units that go.

    FLOPs are the way there: latency is taken for a power of them between the tries that lie around the share. Each try is told. Where
    no network lies so near the share, as units that go together are coarse, it is the nearest that is faster.

    Raises:
        IncompatibleRecipe: the share is out of reach; the nearest one is told.
    """
    if share == 1:
        return Reached(set(), 1.0)
    tried: list[Try] = []
    least = cost(choice.first(len(choice.order)))
    flops = share
    for _ in range(MOST_TRIES):
        units = _untried(choice, cost, flops, least, tried, share)
        if units is None:
            break
        found = time(units)
        tried.append((cost(units), found.value, units))
        tell({"flops": tried[-1][0], "latency": found.value, "low": found.low, "high": found.high})
        if abs(found.value / share - 1) <= LATENCY_TOLERANCE:
            break
        flops = _next(tried, share, least)
    fast = [one for one in tried if one[1] <= share * (1 + LATENCY_TOLERANCE)]
    if not fast:
        raise _out_of_reach("latency", share, min(one[1] for one in tried))
    _, reached, units = min(fast, key=lambda one: abs(log(one[1] / share)))
    return Reached(units, reached)


def _untried(
    choice: Choice,
    cost: Callable[[set[int]], float],
    flops: float,
    least: float,
    tried: Sequence[Try],
    share: float,
) -> set[int] | None:
    """Units that leave at most these FLOPs; where those were tried, as few as leave less than the nearest try that was too slow."""
    slower, _ = _slower(tried, share)
    for most in (flops, slower * (1 - ROUNDING)):
        units = by_cost(choice, cost, max(most, least), "flops").units
        if all(units != known for *_, known in tried):
            return units
    return None


def _slower(tried: Iterable[Try], share: float) -> tuple[float, float]:
    """FLOPs and latency of the try with the fewest FLOPs that is too slow and has more than every one that is fast enough.

    Of the whole network, if there is none. Fewer FLOPs are not always faster: kernels compute some widths better than others.
    """
    listed = list(tried)
    most = max((one[0] for one in listed if one[1] <= share), default=0.0)
    return min(((one[0], one[1]) for one in listed if one[1] > share and one[0] > most), default=(1.0, 1.0))


def _next(tried: Sequence[Try], share: float, least: float) -> float:
    """The FLOPs at which the power that runs through the nearest tries above and below the share meets it."""
    more, long = _slower(tried, share)
    faster = max((one for one in tried if one[1] <= share), key=lambda one: one[0], default=None)
    if faster is None:  # none is fast enough yet: go on from the smallest
        power = min(1.0, max(log(long) / log(more), 0.25)) if 0 < more < 1 and long < 1 else 0.5
        return max(least, more * exp(log(share / long) / power))
    few, short, _ = faster
    at = log(share / short) / log(long / short)
    return exp(log(few) + min(max(at, 0.1), 0.9) * log(more / few))


def _out_of_reach(what: str, share: float, nearest: float) -> IncompatibleRecipe:
    return IncompatibleRecipe(
        f"{share:g} of the {what} is out of reach: {nearest:.3g} is the least that can stay",
        stage=STAGE,
        param="to",
        hint=f"set `to` to {nearest:.3g} or more, or lower `keep` or `round_to`, or take layers out of `ignore`",
    )
