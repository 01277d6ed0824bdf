"""Intervals: for ratios of timings, for shares, for means, for differences of paired shares. All at 95%."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 4000
_Z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


def ratio_interval(slow: Sequence[Sequence[float]], fast: Sequence[Sequence[float]], seed: int) -> Interval:
    """How many times as long `slow` takes as `fast`: each a list of launches, each launch a list of block medians.

    Launch i of both was timed in turns, so the ratio is formed within a launch, and their geometric mean is the value.
    The bootstrap resamples launches, then blocks within each (Kalibera and Jones, "Rigorous benchmarking in reasonable
    time", 2013). With few launches its percentiles are too narrow; they are widened as Hesterberg gives it ("What
    teachers should know about the bootstrap", 2015, expanded percentile interval).

    Raises:
        ValueError: fewer than two launches.
    """
    launches = len(slow)
    if launches < 2 or len(fast) != launches:
        raise ValueError("an interval needs two launches of each side or more")
    random = np.random.default_rng(seed)
    logs = np.stack(
        [
            _resampled_log_medians(before, random) - _resampled_log_medians(after, random)
            for before, after in zip(slow, fast, strict=True)
        ]
    )  # launch x resample
    chosen = random.integers(0, launches, (launches, RESAMPLES))
    means = np.take_along_axis(logs, chosen, axis=0).mean(axis=0)
    observed = float(
        np.mean(
            [np.log(np.median(before) / np.median(after)) for before, after in zip(slow, fast, strict=True)]
        )
    )
    tail = _expanded_tail(launches)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(
        float(np.exp(observed)), float(np.exp(min(low, observed))), float(np.exp(max(high, observed)))
    )


def share_interval(hits: float, total: int) -> Interval:
    """Wilson's score interval of a share ("Probable inference", 1927)."""
    share = hits / total
    centre = (share + _Z**2 / (2 * total)) / (1 + _Z**2 / total)
    half = _Z / (1 + _Z**2 / total) * sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def mean_interval(scores: np.ndarray) -> Interval:
    """Student's interval of a mean; a single sample says nothing of its spread, so the interval is unbounded then."""
    mean = float(scores.mean())
    if len(scores) < 2:
        return Interval(mean, -np.inf, np.inf)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(scores) - 1) * scores.std(ddof=1) / sqrt(len(scores)))
    return Interval(mean, mean - half, mean + half)


def paired_share_difference(only_first: int, only_second: int, total: int) -> Interval:
    """First share less second share, over the same samples: `only_first` hit by the first alone, `only_second` likewise.

    Tango's score interval ("Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", 1998), which is right where the two never disagree: the width does not shrink to nothing.
    """
    value = (only_first - only_second) / total

    def excess(delta: float) -> float:
        b = -only_first - only_second + (2 * total - only_first + only_second) * delta
        c = -only_second * delta * (1 - delta)
        nuisance = (sqrt(max(0.0, b * b - 8 * total * c)) - b) / (4 * total)
        variance = total * (2 * nuisance + delta * (1 - delta))
        gap = only_first - only_second - total * delta
        return gap / sqrt(variance) if variance > 0 else float(np.sign(gap)) * np.inf

    return Interval(value, _crossing(excess, _Z, -1.0, value), _crossing(excess, -_Z, value, 1.0))


def _crossing(decreasing, level: float, low: float, high: float) -> float:  # type: ignore[no-untyped-def]
    for _ in range(60):
        middle = (low + high) / 2
        if decreasing(middle) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _resampled_log_medians(blocks: Sequence[float], random: np.random.Generator) -> np.ndarray:
    values = np.asarray(blocks, dtype=np.float64)
    picked = random.integers(0, len(values), (RESAMPLES, len(values)))
    return np.asarray(np.log(np.median(values[picked], axis=1)))


def _expanded_tail(count: int) -> float:
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * sqrt(count / (count - 1))
    return float(stats.norm.cdf(-quantile))
