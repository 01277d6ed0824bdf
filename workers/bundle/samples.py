"""Sample inputs and the outputs that the engine promises for them, with the tolerance of the promise."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from workers.context import Feeds, Samples
from workers.feeds import in_precision_of, plan_feeds
from workers.runtimes.base import LoadedEngine

FILE = "samples.npz"
LEAST_RELATIVE_TOLERANCE = 1e-3


def sample_feeds(engine: LoadedEngine, candidates: list[Samples]) -> tuple[Feeds, Samples]:
    """Feeds for one run, from the first candidate that the engine accepts with finite outputs.

    Seeded inputs come first, so that a bundle carries no user data; where a network cannot run on them
    (indices out of range, say), real samples serve. The last candidate's error is not hidden.
    """
    for candidate in candidates:
        try:
            feeds = first_feeds(engine, candidate)
            outputs = engine.run(feeds)
        except Exception:
            if candidate is candidates[-1]:
                raise
            continue
        if candidate is candidates[-1] or all(is_finite(value) for value in outputs.values()):
            return feeds, candidate
    raise ValueError("no candidate was given")


def first_feeds(engine: LoadedEngine, samples: Samples) -> Feeds:
    """The feeds of the first run over a dataset, one sample where the engine's batch is free."""
    plan = plan_feeds(engine.inputs, samples.inputs)
    batch, _ = next(iter(samples.batches(plan.fixed_batch or 1)))
    feeds, _ = next(iter(plan.feeds(batch)))
    return feeds


def is_finite(value: np.ndarray) -> bool:
    """Whether an output holds neither NaN nor infinity."""
    return not np.issubdtype(value.dtype, np.inexact) or bool(np.isfinite(value).all())


def write_samples(
    out: Path,
    baseline: LoadedEngine,
    engine: LoadedEngine,
    feeds: Feeds,
    source: dict[str, Any],
    least_tolerance: float = LEAST_RELATIVE_TOLERANCE,
) -> dict[str, Any]:
    """Write `samples.npz` into `out`; the answer is the manifest's `samples`.

    The tolerance of an output is the larger of `least_tolerance` of its largest value and the engine's own error
    against the original on these inputs: another machine may round differently, by no more than the optimization did.
    """
    outputs, original = engine.run(feeds), baseline.run(in_precision_of(baseline.inputs, feeds))
    arrays = {f"input:{name}": value for name, value in feeds.items()}
    promises = {}
    for name, value in outputs.items():
        arrays[f"output:{name}"] = value
        promises[name] = {
            "sha256": hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest(),
            "atol": tolerance(value, original[name], least_tolerance),
        }
    np.savez_compressed(out / FILE, **arrays)  # type: ignore[arg-type]
    return {"file": FILE, **source, "inputs": sorted(feeds), "outputs": promises}


def tolerance(value: np.ndarray, original: np.ndarray, least: float = LEAST_RELATIVE_TOLERANCE) -> float:
    """The absolute tolerance of one output; 0 for integers and strings."""
    if not np.issubdtype(value.dtype, np.floating) or not value.size:
        return 0.0
    wide, wide_original = value.astype(np.float64), original.astype(np.float64)
    if not np.isfinite(wide).all():
        return 0.0
    own_error = float(np.max(np.abs(wide - wide_original))) if wide.shape == wide_original.shape else 0.0
    return max(least * float(np.max(np.abs(wide))), own_error)
