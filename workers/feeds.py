"""From samples to what an engine takes: names, dtypes, shapes and batches checked once, then only sliced.

Axis 0 of every array counts samples. An input of the same rank takes a slice of the array, its first axis is the batch.
An input of one rank less takes one sample; then every input is fed one sample at a time.

Types: what casts without loss, does. Between floats the dataset's precision becomes the input's, which is noted; integers
and floats too large for a narrower type are refused where they occur.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from app.errors import SignatureMismatch
from workers.context import Feeds


@dataclass(frozen=True)
class InputPlan:
    """How one input is fed: `batched` takes a slice of samples, otherwise one sample."""

    name: str
    dtype: np.dtype
    batched: bool
    narrows: bool  # a value may be too large for `dtype`


@dataclass(frozen=True)
class FeedPlan:
    """How samples become feeds. `fixed_batch` is the engine's own batch size, None where it is free;
    `batchable` says whether several samples may go in one run; `notes` name the casts that lose precision."""

    inputs: tuple[InputPlan, ...]
    fixed_batch: int | None
    batchable: bool
    notes: tuple[str, ...] = ()

    @property
    def max_batch(self) -> int | None:
        """The most samples of one run; None: any number."""
        return self.fixed_batch if self.batchable else 1

    def feeds(self, batch: Feeds, size: int | None = None) -> Iterator[tuple[Feeds, int]]:
        """Feeds for one run after another over a chunk of samples, each with the number of samples that count.

        `size` samples a run where the engine's batch is free (default: all of the chunk). A fixed batch is filled up
        by repeating the last sample; outputs beyond the count are to be cut (`cut`).
        """
        total = len(next(iter(batch.values())))
        step = self.fixed_batch or (1 if not self.batchable else size or total)
        for start in range(0, total, step):
            stop = min(start + step, total)
            yield (
                {plan.name: self._take(plan, batch[plan.name], start, stop) for plan in self.inputs},
                stop - start,
            )

    def cut(self, outputs: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
        """Outputs with one row a sample: what belongs to filling is removed.

        An output without a sample axis (a scalar, a recurrent state, anything where inputs are unbatched) gets one of
        length 1: it belongs to the whole run.
        """
        run = self.fixed_batch or count
        return {name: self._rows(np.asarray(value), run, count) for name, value in outputs.items()}

    def _rows(self, value: np.ndarray, run: int, count: int) -> np.ndarray:
        if self.batchable and value.ndim and len(value) == run:
            return value[:count]
        return value[np.newaxis]

    def _take(self, plan: InputPlan, values: np.ndarray, start: int, stop: int) -> np.ndarray:
        if not plan.batched:
            return np.asarray(_cast(plan, values[start : start + 1])[0])
        part = values[start:stop]
        if self.fixed_batch and len(part) < self.fixed_batch:
            part = np.concatenate([part, np.repeat(part[-1:], self.fixed_batch - len(part), axis=0)])
        return np.ascontiguousarray(_cast(plan, part))


def plan_feeds(inputs: list[dict[str, Any]], samples: Mapping[str, tuple[str, tuple[int, ...]]]) -> FeedPlan:
    """Hold a dataset against an engine's inputs ({name, dtype, shape}; free dimensions None or a name).

    Raises:
        SignatureMismatch: an input has no array, or dtype, rank or a dimension does not fit.
    """
    plans = tuple(_plan_input(entry, samples) for entry in inputs)
    batchable = all(plan.batched for plan in plans)
    fixed = {
        entry["shape"][0]
        for entry, plan in zip(inputs, plans, strict=True)
        if plan.batched and isinstance(entry["shape"][0], int)
    }
    if not batchable and fixed - {1}:
        raise SignatureMismatch(
            f"some inputs take one sample at a time, others {max(fixed)}",
            hint="give every array a sample axis in front of the input's own shape",
        )
    if len(fixed) > 1:
        raise SignatureMismatch(
            f"the first axes of the inputs are fixed at different sizes: {sorted(fixed)}",
            hint="give every array a sample axis in front of the input's own shape",
        )
    notes = tuple(
        f"input {plan.name!r}: {samples[plan.name][0]} was rounded to {plan.dtype.name}"
        for plan in plans
        if plan.dtype.kind == "f" and plan.narrows
    )
    return FeedPlan(plans, next(iter(fixed), None), batchable, notes)


def paired_plans(
    first: list[dict[str, Any]],
    second: list[dict[str, Any]],
    samples: Mapping[str, tuple[str, tuple[int, ...]]],
) -> tuple[FeedPlan, FeedPlan]:
    """Plans by which two engines get the same samples in every run: where one has a fixed batch, the other takes it too.

    Raises:
        SignatureMismatch: the samples do not fit one of them, both have fixed batches that differ, or one takes
            batches where the other takes single samples.
    """
    plans = plan_feeds(first, samples), plan_feeds(second, samples)
    sizes = {plan.fixed_batch for plan in plans if plan.fixed_batch is not None}
    if plans[0].batchable != plans[1].batchable or len(sizes) > 1:
        told = [
            f"batches of {plan.fixed_batch or 'any size'}" if plan.batchable else "single samples"
            for plan in plans
        ]
        raise SignatureMismatch(
            f"the optimized engine takes {told[1]}, the original {told[0]}",
            hint="leave out the pass that set the batch, or set it at the original's",
        )
    size = next(iter(sizes), None)
    return replace(plans[0], fixed_batch=size), replace(plans[1], fixed_batch=size)


def in_precision_of(inputs: Sequence[Mapping[str, Any]], feeds: Feeds) -> Feeds:
    """The same feeds for an engine whose floating-point `inputs` [{name, dtype}] are narrower or wider, as after `to-fp16`."""
    floats = {one["name"]: np.dtype(one["dtype"]) for one in inputs if one["dtype"].startswith("float")}
    return {
        name: array.astype(floats[name], copy=False) if array.dtype.kind == "f" and name in floats else array
        for name, array in feeds.items()
    }


def _plan_input(entry: Mapping[str, Any], samples: Mapping[str, tuple[str, tuple[int, ...]]]) -> InputPlan:
    name, shape = entry["name"], list(entry["shape"])
    if name not in samples:
        raise SignatureMismatch(
            f"the dataset has no array for input {name!r}; it has {sorted(samples)}",
            param=name,
            hint="name the arrays of the .npz like the model's inputs",
        )
    dtype, sample = samples[name]
    held, target = _dtype(dtype), _dtype(entry["dtype"])
    if not _castable(held, target):
        raise SignatureMismatch(
            f"input {name!r} takes {entry['dtype']}, the dataset has {dtype}",
            param=name,
            hint=f"save the array as {entry['dtype']}",
        )
    batched = len(shape) == len(sample) + 1
    if not batched and len(shape) != len(sample):
        raise SignatureMismatch(
            f"input {name!r} has {len(shape)} dimensions {shape}, a sample of the dataset has {len(sample)}: {list(sample)}",
            param=name,
            hint="the first axis of each array counts the samples",
        )
    for axis, (wanted, given) in enumerate(zip(shape[1:] if batched else shape, sample, strict=True)):
        if isinstance(wanted, int) and wanted != given:
            raise SignatureMismatch(
                f"dimension {axis + batched} of input {name!r} is {wanted}, in the dataset it is {given}",
                param=name,
            )
    narrows = target.kind in "fiu" and not np.can_cast(held, target, "safe")
    return InputPlan(name, target, batched, narrows)


def _dtype(name: str) -> np.dtype:
    return np.dtype(object if name == "string" else name)


def _castable(given: np.dtype, wanted: np.dtype) -> bool:
    if "O" in (given.kind, wanted.kind):
        return given.kind == wanted.kind
    both = given.kind + wanted.kind
    return bool(np.can_cast(given, wanted, "safe") or both == "ff" or set(both) <= set("iu"))


def _cast(plan: InputPlan, values: np.ndarray) -> np.ndarray:
    """Raises SignatureMismatch where a value is too large for the input's dtype."""
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if not plan.narrows:
        return values.astype(plan.dtype, copy=False)
    with np.errstate(over="ignore"):
        cast = values.astype(plan.dtype)
        kept = np.isfinite(cast) | ~np.isfinite(values) if plan.dtype.kind == "f" else cast == values
    if not kept.all():
        index = np.argwhere(~kept)[0]
        raise SignatureMismatch(
            f"input {plan.name!r} takes {plan.dtype.name}, which cannot hold {values[tuple(index)]}",
            param=plan.name,
            hint=f"save values that fit {plan.dtype.name}",
        )
    return cast
