"""What measured numbers allow to say: intervals of shares, verdicts on speed, decisions on budgets. Pure.

Every interval is two-sided at 95%. Means of other scores and ratios of latencies get theirs by bootstrap, in
`workers/measure/statistics.py`.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

Verdict = Literal["faster", "no_difference", "slower", "unstable"]
Budget = bool | Literal["undecided"]

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)

NEGLIGIBLE = 0.02  # memory layout alone makes differences of that size (Mytkowicz et al. 2009, ASPLOS)
PRECISE = 0.10  # an interval that reaches further from 1 is too wide to say that there is no difference
CONTROL_TOLERANCE = 0.02  # how far from 1 the whole interval of the A/A control may lie
CONTROL_LIMIT = 0.50  # a control that reaches further from 1 says that nothing can be measured here now

MOST_SAMPLES = 10**9
_BISECTIONS = 60
_NORMAL_FROM = 1000  # degrees of freedom from which Student's t is taken as normal


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95% interval, `low` and `high` included."""

    value: float
    low: float
    high: float

    @property
    def reach(self) -> float:
        """Of a ratio: how far the interval reaches from 1, in either direction, as a factor of at least 1."""
        return max(self.high, 1 / self.low if self.low > 0 else math.inf, 1.0)

    @property
    def distance(self) -> float:
        """Of a ratio: how far the whole interval lies from 1, as a factor; 1 where it holds 1."""
        return max(self.low, 1 / self.high if self.high > 0 else math.inf, 1.0)


def speed_verdict(speedup: Interval, control: Interval) -> Verdict:
    """What a speed-up (baseline's latency over the optimized one's) may be called.

    `control` is the same ratio between two launches of the baseline in the same session, whose truth is 1.

    - `unstable` where the control fails: its whole interval is off 1 by more than `CONTROL_TOLERANCE`, or reaches
      further than `CONTROL_LIMIT`.
    - `faster`, `slower` where the interval excludes 1, and the estimate is off 1 by more than `NEGLIGIBLE` and by more
      than the control's interval reaches.
    - `no_difference` where the interval holds 1, or the estimate is negligible, and it reaches no further than `PRECISE`.
    - `unstable` else: there may be a difference, this session cannot tell.
    """
    if control.distance > 1 + CONTROL_TOLERANCE or control.reach > 1 + CONTROL_LIMIT:
        return "unstable"
    effect = max(speedup.value, 1 / speedup.value)
    excludes_one = speedup.low > 1 or speedup.high < 1
    if excludes_one and effect > max(1 + NEGLIGIBLE, control.reach):
        return "faster" if speedup.value > 1 else "slower"
    if speedup.reach <= 1 + PRECISE and (not excludes_one or effect <= 1 + NEGLIGIBLE):
        return "no_difference"
    return "unstable"


def share_interval(hits: int, count: int) -> Interval:
    """The interval of a share (Wilson 1927); with no or only hits it has a width too. `count` is at least 1."""
    share = hits / count
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    low = 0.0 if hits == 0 else max(middle - half, 0.0)
    high = 1.0 if hits == count else min(middle + half, 1.0)
    return Interval(share, low, high)


def paired_share_interval(first_only: float, second_only: float, count: float) -> Interval:
    """The interval of the difference of two shares of the same samples, first less second: Tango's score interval.

    `first_only` samples are hits of the first alone, `second_only` of the second alone, out of `count` pairs. With no
    such pair it is as wide as so few samples must leave it. The numbers may be fractions, to see what more of the same
    would give.

    Source: T. Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design, Statistics in Medicine 17 (1998).
    """
    value = (first_only - second_only) / count
    low = _score_root(first_only, second_only, count, Z, -1.0, value)
    high = _score_root(first_only, second_only, count, -Z, value, 1.0)
    return Interval(value, low, high)


def budget_decision(drop: Interval, max_drop: float) -> Budget:
    """Whether a drop is within its budget: held by the interval's bound, so that luck neither passes nor fails a model."""
    if drop.high <= max_drop:
        return True
    if drop.low > max_drop:
        return False
    return "undecided"


def samples_needed_for_shares(first_only: int, second_only: int, count: int, max_drop: float) -> int | None:
    """About how many samples would decide a budget if more of them behaved alike.

    None where no number would: the drop is the budget itself, or `MOST_SAMPLES` do not suffice.
    """

    def decided(factor: float) -> bool:
        drop = paired_share_interval(first_only * factor, second_only * factor, count * factor)
        return budget_decision(drop, max_drop) != "undecided"

    high = 1.0
    while not decided(high):
        high *= 2
        if high * count > MOST_SAMPLES:
            return None
    low = high / 2
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return math.ceil(high * count)


def samples_needed_for_means(drop: Interval, count: int, max_drop: float) -> int | None:
    """The same for a mean: its interval narrows with the square root of the number of samples."""
    distance = max_drop - drop.value
    half = drop.high - drop.value if distance > 0 else drop.value - drop.low
    if distance == 0 or not math.isfinite(half):
        return None
    needed = math.ceil(count * (half / distance) ** 2)
    return needed if needed <= MOST_SAMPLES else None


def student_t(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution for a probability in (0.5, 1), by bisection."""
    if freedom >= _NORMAL_FROM:
        return NormalDist().inv_cdf(probability)
    low, high = 0.0, math.pi / 2  # the angle whose tangent is t / sqrt(freedom)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 + _central(middle, freedom) / 2 < probability else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _central(angle: float, freedom: int) -> float:
    """The probability that |t| is less than tan(angle)·sqrt(freedom): Abramowitz and Stegun 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _score_root(b: float, c: float, n: float, score: float, low: float, high: float) -> float:
    """Where Tango's score, which falls as the difference grows, takes a value."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(b, c, n, middle) > score else (low, middle)
    return (low + high) / 2


def _score(b: float, c: float, n: float, difference: float) -> float:
    if abs(difference) >= 1:
        return math.copysign(math.inf, -difference)
    linear = (2 * n - b + c) * difference - b - c
    root = math.sqrt(max(linear**2 + 8 * n * c * difference * (1 - difference), 0.0))
    second = (root - linear) / (4 * n)  # the likeliest share of pairs where the second alone hits
    variance = n * (2 * second + difference * (1 - difference))
    excess = b - c - n * difference
    if variance <= 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)
