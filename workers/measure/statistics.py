"""Intervals of measured times and scores by seeded bootstrap; those of shares are in `app/measurements/compare.py`.

Runs inside one launch resemble each other more than runs of different launches: where code and data lie in memory is
decided at the launch. So the unit that counts is the launch, and the bootstrap resamples launches first, then what was
timed inside each (Kalibera & Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013; Davison & Hinkley,
Bootstrap Methods and their Application, 1997, 3.8). All intervals are two-sided at 95%.
"""

import math
from statistics import NormalDist

import numpy as np

from app.measurements.compare import CONFIDENCE, Interval, Z, student_t

RESAMPLES = 10_000
BOOTSTRAP_UP_TO = 2000  # samples; the mean of more is normal


def ratio_interval(first: np.ndarray, second: np.ndarray, seed: int) -> Interval:
    """The interval of `first` over `second`, two engines timed in rounds of ABBA blocks.

    Both hold block medians, [launches, 2 * rounds], in the order in which they were timed. A round's ratio is the
    geometric mean of its two `first` blocks over that of its two `second` blocks, in which a linear drift of the machine
    cancels; the estimate is the median of all rounds, which a disturbance of some does not move. Percentile bootstrap,
    widened by sqrt(n / (n - 1)) for n launches, by as much as resampling n of them is too narrow (Hesterberg, What
    Teachers Should Know About the Bootstrap, The American Statistician 69, 2015). With five launches 91 to 99 of
    100 such intervals hold the true ratio, see `tests/workers/measure/test_statistics.py`.
    """
    rounds = _round_logs(first) - _round_logs(second)
    low, high = _quantiles(_hierarchical_medians(rounds, seed), _widened(len(rounds), Z))
    middle = float(np.median(rounds))
    return Interval(*(math.exp(value) for value in (middle, min(low, middle), max(high, middle))))


def median_interval(blocks: np.ndarray, seed: int) -> Interval:
    """The interval of a median time from block medians, [launches, blocks]; resampled and widened as above."""
    low, high = _quantiles(_hierarchical_medians(blocks, seed), _widened(len(blocks), Z))
    middle = float(np.median(blocks))
    return Interval(middle, min(low, middle), max(high, middle))


def mean_interval(values: np.ndarray, seed: int) -> Interval:
    """The interval of the mean of independent values, [n].

    Up to `BOOTSTRAP_UP_TO` values: percentile bootstrap, widened for few values with Student's t in place of the normal
    (Hesterberg 2015, the expanded percentile interval). More: Student's t. A single value has no interval but itself.
    """
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Interval(mean, mean, mean)
    quantile = student_t(0.5 + CONFIDENCE / 2, count - 1)
    if count > BOOTSTRAP_UP_TO:
        half = quantile * float(np.std(values, ddof=1)) / math.sqrt(count)
        return Interval(mean, mean - half, mean + half)
    random = np.random.default_rng(seed)
    chunk = max(1, 1_000_000 // count)
    means = [
        values[random.integers(0, count, (min(chunk, RESAMPLES - start), count))].mean(axis=1)
        for start in range(0, RESAMPLES, chunk)
    ]
    low, high = _quantiles(np.concatenate(means), _widened(count, quantile))
    return Interval(mean, min(low, mean), max(high, mean))


def _round_logs(blocks: np.ndarray) -> np.ndarray:
    """[launches, 2 * rounds] -> [launches, rounds]: the logarithm of each round's geometric mean."""
    return np.asarray(np.log(blocks).reshape(len(blocks), -1, 2).mean(axis=2))


def _hierarchical_medians(values: np.ndarray, seed: int) -> np.ndarray:
    """The median of each resample of [launches, timed]."""
    launches, timed = values.shape
    random = np.random.default_rng(seed)
    chosen = random.integers(0, launches, (RESAMPLES, launches, 1))
    inside = random.integers(0, timed, (RESAMPLES, launches, timed))
    return np.asarray(np.median(values[chosen, inside].reshape(RESAMPLES, -1), axis=1))


def _widened(count: int, quantile: float) -> float:
    """The tail of a bootstrap distribution of `count` units that stands for a quantile."""
    return NormalDist().cdf(-math.sqrt(count / (count - 1)) * quantile) if count > 1 else 0.0


def _quantiles(values: np.ndarray, tail: float) -> tuple[float, float]:
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
