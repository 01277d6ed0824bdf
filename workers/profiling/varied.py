"""The latency of an engine with other numbers of threads, and of samples a run: short looks that decide what to advise."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import BurnishError
from workers.looking import Seen, feeds_of
from workers.measure.feeds_file import save_feeds
from workers.measure.processors import usable_processors
from workers.measure.single import time_alone

if TYPE_CHECKING:
    from workers.pipeline import Attempt

LAUNCHES = 2
SECONDS = 0.6  # of each look
MOST_MS = 400.0  # an engine that takes longer is not looked at again: it would take minutes
LARGER = (4, 16)  # times the samples

Times = dict[int, dict[str, float]]


def by_threads(attempt: "Attempt", seen: Seen, feeds: Path, folder: Path, batch: int) -> Times:
    """By number of threads: {p50_ms, low_ms, high_ms}; {} where the runtime lets nobody choose, or code was compiled for its own."""
    if "threads" not in type(seen.params).model_fields or seen.runtime.name.startswith("torch-inductor"):
        return {}
    most = usable_processors()
    own = int(seen.under_test.params["threads"] or most)
    found: Times = {}
    for count in sorted({1, max(most // 2, 1), most, own}):
        params = seen.params.model_copy(update={"threads": count})
        looked = Seen(seen.runtime, params, seen.engine, seen.source, seen.manifest)
        found[count] = _look(attempt, looked, feeds, folder / f"threads-{count}", batch)
    return found


def by_batch(attempt: "Attempt", seen: Seen, now_ms: float, folder: Path, batch: int) -> Times:
    """The same by samples a run, those of now too; {} where the batch is fixed, or larger ones do not run."""
    found: Times = {}
    folder.mkdir(parents=True, exist_ok=True)
    for size in (batch, *(times * batch for times in LARGER if times * now_ms < MOST_MS)):
        try:
            feeds, _ = feeds_of(attempt, seen, size)
            path = folder / f"feeds-{size}.npz"
            save_feeds(path, feeds)
            found[size] = _look(attempt, seen, path, folder / f"batch-{size}", size)
        except BurnishError:
            return found if len(found) > 1 else {}
    return found


def _look(attempt: "Attempt", seen: Seen, feeds: Path, folder: Path, batch: int) -> dict[str, float]:
    timed: dict[str, Any] = time_alone(
        seen.under_test,
        feeds,
        folder,
        batch=batch,
        launches=LAUNCHES,
        seconds=SECONDS,
        seed=attempt.assignment.seed,
    )
    interval = timed["p50_interval_ms"]
    return {"p50_ms": timed["latency"]["p50_ms"], "low_ms": interval["low"], "high_ms": interval["high"]}
