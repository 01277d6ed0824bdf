"""Scenario `server`: queries that arrive at random, and the highest rate at which 99 in 100 are answered in time. Pure.

Arrivals are a Poisson process, as MLPerf Inference has it (Reddi et al., arXiv:1911.02549, section III-C). A rate is kept where the
95% interval of the share of late queries lies at or below one in a hundred, broken where it lies above; else more queries are sent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np

from app.measurements.compare import share_interval, student_t

LATE = 0.01  # the share of queries that may be late
LEAST_QUERIES = 400  # with none late, so many tell that at most one in a hundred is
PIECES = 20  # of a trial, by whose means crowds of late queries show
CROWDS = 150  # a trial is so many times as long as the queue remembers
PRECISE = 1.05  # the search ends where the lowest broken rate is at most so many times the highest kept one
MOST_TRIALS = 16
FIRST_LOAD = 0.7  # of the engine's capacity, where the search begins
LOWEST_LOAD = 0.01


@dataclass(frozen=True)
class Served:
    """What came of queries that arrived at one rate: nanoseconds from arrival to answer, in order of arrival."""

    latency_ns: Sequence[int]
    runs: int
    busy_ns: int
    seconds: float
    gave_up: bool = False  # the engine fell behind without end


@dataclass(frozen=True)
class Tried:
    """One trial. `kept` is None where the queries do not tell."""

    rate: float
    latency_ms: np.ndarray
    late: int
    kept: bool | None
    mean_batch: float
    utilization: float


Serve = Callable[[np.ndarray], Served]


def arrivals(rate: float, count: int, seed: int) -> np.ndarray:
    """The times in seconds at which `count` queries arrive, `rate` a second on average."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def kept(late: np.ndarray) -> bool | None:
    """Whether at most `LATE` of all queries are late, as far as these tell: for each, in order, whether it was.

    Late ones come in crowds, so besides the interval of a share (as if each were by itself) the one of `PIECES` pieces' means
    is looked at, and the wider bound counts (batch means: Law, Simulation Modeling and Analysis, section 9.5.3).
    """
    share = share_interval(int(late.sum()), len(late))
    means = np.array([piece.mean() for piece in np.array_split(late, PIECES)])
    half = student_t(0.975, PIECES - 1) * float(np.std(means, ddof=1)) / sqrt(PIECES)
    if max(share.high, share.value + half) <= LATE:
        return True
    return False if min(share.low, share.value - half) > LATE else None


def relaxation_seconds(rate: float, capacity: float) -> float:
    """How long a queue takes to forget how long it was, if `capacity` queries a second can be answered.

    Source: of an M/M/1 queue 1 / (mu (1 - sqrt(rho))^2): Cohen, The Single Server Queue, 1982, section II.2.1.
    """
    if rate >= capacity:
        return float("inf")
    return float(1 / (capacity * (1 - sqrt(rate / capacity)) ** 2))


def trial(
    serve: Serve, rate: float, capacity: float, bound_ms: float, most_seconds: float, seed: int
) -> Tried:
    """Serve queries at one rate, for long enough that the queue's ups and downs are seen, and while they do not tell.

    Late queries come in crowds, so a run counts only where it is `CROWDS` times as long as the queue remembers; where that takes
    more than `most_seconds`, nobody tells whether the rate is kept.
    """
    wanted = CROWDS * relaxation_seconds(rate, capacity)
    enough = wanted <= max(most_seconds, LEAST_QUERIES / rate)
    count = ceil(max(LEAST_QUERIES, rate * (wanted if enough else most_seconds)))
    latencies: list[np.ndarray] = []
    runs = busy = 0
    spent = 0.0
    while True:
        served = serve(arrivals(rate, count, seed + len(latencies)))
        latencies.append(np.asarray(served.latency_ns, dtype=np.float64) / 1e6)
        runs, busy, spent = runs + served.runs, busy + served.busy_ns, spent + served.seconds
        every = np.concatenate(latencies)
        found = False if served.gave_up else kept(every > bound_ms)
        if found is not None or spent + served.seconds > most_seconds:
            break
    if found and not enough:
        found = None
    late = int(np.count_nonzero(every > bound_ms))
    return Tried(rate, every, late, found, len(every) / runs, busy / 1e9 / spent)


def highest_rate(
    serve: Serve,
    capacity: float,
    bound_ms: float,
    seconds: float,
    seed: int = 0,
    report: Callable[[int, int, str], None] = lambda done, total, message: None,
) -> list[Tried]:
    """Every trial on the way to the highest rate that keeps the bound; `capacity` is about what the engine answers a second, and
    `seconds` what a trial may take at most, as long as that is enough for `LEAST_QUERIES`.

    The rate is the highest of the trials that are `kept`, if any is. A trial that does not tell counts as broken.
    """
    tried: list[Tried] = []
    low, high, rate = 0.0, 0.0, FIRST_LOAD * capacity
    while len(tried) < MOST_TRIALS:
        report(len(tried), MOST_TRIALS, f"{rate:.4g} queries a second")
        found = trial(serve, rate, capacity, bound_ms, seconds, seed)
        tried.append(found)
        if found.kept:
            low = max(low, rate)
        else:
            high = rate if high == 0 else min(high, rate)
        if low and high and high <= PRECISE * low:
            break
        if not low and rate < LOWEST_LOAD * capacity:
            break
        rate = sqrt(low * high) if low and high else low * 1.3 if low else high / 2
    return tried
