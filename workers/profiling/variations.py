"""The engine of a profile with other numbers of threads and samples: what advice on these goes by. Short, beside the profile."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.catalog.runtimes import RUNTIMES
from app.errors import BurnishError
from workers.context import Feeds
from workers.measure.feeds_file import save_feeds
from workers.measure.latency import EngineUnderTest
from workers.measure.processors import usable_processors
from workers.measure.single import time_alone

SECONDS = 0.5  # for each variation
LAUNCHES = 2
COMPILED_IN = frozenset(("torch-inductor-cpu",))  # runtimes whose engines are made for a number of threads
BATCHES = (1, 2, 4, 8, 16, 32, 64)
LONGEST_RUN_MS = 500.0  # from which on no larger batch is tried
STILL_RISING = 1.1  # times the throughput of the batch before

Times = dict[str, float]
MakeFeeds = Callable[
    [int], Sequence[Feeds]
]  # for a batch; raises BurnishError where the engine does not take it


@dataclass(frozen=True)
class Variations:
    """Latencies {p50_ms, low_ms, high_ms} by number of threads, and by samples of a run."""

    threads: dict[int, Times] = field(default_factory=dict)
    batches: dict[int, Times] = field(default_factory=dict)


def vary(
    engine: EngineUnderTest, feeds: Path, batch: int, make: MakeFeeds, folder: Path, seed: int
) -> Variations:
    """Time the engine on fewer and on more threads with its own feeds, and on larger batches with its own threads.

    Nobody else may use the device meanwhile. Raises as `time_alone`.
    """

    def time(under_test: EngineUnderTest, given: Path, size: int, name: str) -> Times:
        timed = time_alone(
            under_test, given, folder / name, batch=size, launches=LAUNCHES, seconds=SECONDS, seed=seed
        )
        interval = timed["p50_interval_ms"]
        return {"p50_ms": timed["latency"]["p50_ms"], "low_ms": interval["low"], "high_ms": interval["high"]}

    counts = thread_counts(engine)
    threads = {
        number: time(_on(engine, number), feeds, batch, f"threads-{number}")
        for number in (counts if len(counts) > 1 else ())
    }
    batches: dict[int, Times] = {}
    for size in BATCHES:
        if size < batch:
            continue
        given = folder / f"batch-{size}.npz"
        try:
            save_feeds(given, make(size))
        except BurnishError:  # its batch is fixed, or the data have no more
            break
        batches[size] = time(engine, given, size, f"batch-{size}")
        if batches[size]["p50_ms"] > LONGEST_RUN_MS or not _rising(batches):
            break
    return Variations(threads, batches)


def thread_counts(engine: EngineUnderTest) -> list[int]:
    """Numbers of threads to try: one, half of the processors, all, and what the engine has; none where it cannot be chosen."""
    params = RUNTIMES[engine.runtime].params.model_fields
    if "threads" not in params or engine.runtime in COMPILED_IN:
        return []
    usable = usable_processors()
    own = int(engine.params.get("threads") or usable)
    return sorted({1, max(usable // 2, 1), usable, own})


def _on(engine: EngineUnderTest, threads: int) -> EngineUnderTest:
    return replace(engine, params={**engine.params, "threads": threads})


def _rising(batches: Mapping[int, Mapping[str, float]]) -> bool:
    """Whether the last batch gave clearly more samples a second than the one before."""
    if len(batches) < 2:
        return True
    before, last = list(batches)[-2:]
    rate = {size: size / batches[size]["p50_ms"] for size in (before, last)}
    return rate[last] > STILL_RISING * rate[before]
