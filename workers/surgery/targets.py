"""How many units must go until a network costs a share of what it did."""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import Any

from app.errors import IncompatibleRecipe
from app.measurements.compare import Interval
from workers.surgery.channels import STAGE
from workers.surgery.choice import Choice
from workers.surgery.latency_search import Found, Network, Search


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
) -> Found:
    """Units that leave a share of the latency, within `latency_search.TOLERANCE` of it on either side, or else the nearest that is
    faster; `cost` and `time` tell the share of FLOPs and latency for units that go, `tell` hears of each measurement.

    Raises:
        IncompatibleRecipe: no network that is fast enough was found; the nearest one is told.
    """
    if share == 1:
        return Found(Network(frozenset(), 1.0, [Interval(1.0, 1.0, 1.0)]), True, None)
    found = Search(choice, cost, time, share, tell).run()
    if not found.met and found.network.share.value > share:
        raise _out_of_reach("latency", share, found.network.share.value)
    return found


def _out_of_reach(what: str, share: float, nearest: float) -> IncompatibleRecipe:
    return IncompatibleRecipe(
        f"{share:g} of the {what} is out of reach: {nearest:.3g} is the least that can stay",
        stage=STAGE,
        param="to",
        hint=f"set `to` to {nearest:.3g} or more, or lower `keep` or `round_to`, or take layers out of `ignore`",
    )
