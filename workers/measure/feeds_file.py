"""The inputs that engines are timed on, as a file between processes."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from workers.context import Feeds, Samples
from workers.feeds import FeedPlan

MOST_FEEDS = 8  # a run's time may depend on its data: some different samples, taken in turns
MOST_BYTES = 64 * 2**20


def choose_feeds(plan: FeedPlan, samples: Samples) -> list[Feeds]:
    """The feeds of the first runs over a dataset, one sample each where the batch is free.

    At least one, at most `MOST_FEEDS`, together at most `MOST_BYTES`.
    """
    per_run = plan.fixed_batch or 1
    chunks = samples.batches(per_run, per_run * MOST_FEEDS)
    runs = (feeds for batch, _ in chunks for feeds, _ in plan.feeds(batch, 1))
    chosen: list[Feeds] = []
    for feeds in islice(runs, MOST_FEEDS):
        size = sum(array.nbytes for one in (*chosen, feeds) for array in one.values())
        if chosen and size > MOST_BYTES:
            break
        chosen.append(feeds)
    return chosen


def save_feeds(path: Path, feeds: Sequence[Feeds]) -> None:
    """Write an `.npz`: `names`, and an array `RUN_INPUT` for each run and input by number. Texts as fixed-width strings."""
    names = sorted(feeds[0])
    arrays = {
        f"{run}_{position}": _plain(one[name])
        for run, one in enumerate(feeds)
        for position, name in enumerate(names)
    }
    np.savez(path, allow_pickle=False, names=np.array(names), **arrays)


def load_feeds(path: Path) -> list[Feeds]:
    """Read what `save_feeds` wrote, texts as objects again."""
    with np.load(path, allow_pickle=False) as stored:
        names = [str(name) for name in stored["names"]]
        runs = (len(stored.files) - 1) // len(names)
        return [
            {name: _fed(stored[f"{run}_{position}"]) for position, name in enumerate(names)}
            for run in range(runs)
        ]


def _plain(array: np.ndarray) -> np.ndarray:
    return array.astype(str) if array.dtype == object else array


def _fed(array: np.ndarray) -> np.ndarray:
    return array.astype(object) if array.dtype.kind == "U" else array
