"""Runs two engines on the same samples, a sample at a time, so that their outputs can be compared as they come."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.errors import InvalidModel, SignatureMismatch
from workers.context import Samples
from workers.feeds import FeedPlan, paired_plans
from workers.runtimes.base import LoadedEngine

CHUNK_SAMPLES = 32  # read from the dataset at once

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class SideBySide:
    """The outputs of both engines for `count` samples from number `first` on. Filling of a fixed batch is cut off."""

    baseline: Outputs
    optimized: Outputs
    labels: np.ndarray | None
    first: int
    count: int
    batched: bool  # whether the first axis of the outputs counts samples

    def rows(self, output: str) -> tuple[np.ndarray, np.ndarray]:
        """One output of both, [count, …].

        Raises:
            SignatureMismatch: its first axis does not count samples, or there is no such output.
        """
        if output not in self.baseline:
            raise SignatureMismatch(
                f"the model has no output called {output!r}",
                param="evaluation.output",
                hint=f"its outputs are {', '.join(self.baseline)}",
            )
        return self._rows(output, self.baseline[output]), self._rows(output, self.optimized[output])

    def _rows(self, output: str, value: np.ndarray) -> np.ndarray:
        rows = value if self.batched else value[np.newaxis]
        if rows.ndim == 0 or len(rows) != self.count:
            raise SignatureMismatch(
                f"the first axis of output {output!r} does not count samples: its shape is {list(value.shape)} for "
                f"{self.count} samples",
                param="evaluation.output",
                hint="evaluate an output with one row a sample",
            )
        return rows


def run_side_by_side(
    baseline: LoadedEngine, optimized: LoadedEngine, samples: Samples, limit: int | None = None
) -> Iterator[SideBySide]:
    """Both engines' outputs, sample by sample where both batches are free: as they are timed, and as a deployed engine
    sees them (ranges that are taken over a batch differ from those of a sample). A fixed batch is the other's too.

    Raises:
        SignatureMismatch: the samples do not fit the engines, or the engines one another.
        InvalidModel: the optimized engine lacks an output of the baseline.
    """
    plans = paired_plans(baseline.inputs, optimized.inputs, samples.inputs)
    _check_outputs(baseline, optimized)
    first = 0
    for chunk, labels in samples.batches(max(CHUNK_SAMPLES, plans[0].fixed_batch or 1), limit):
        inside = 0
        for (feeds, count), (other, _) in zip(
            plans[0].feeds(chunk, 1), plans[1].feeds(chunk, 1), strict=True
        ):
            yield SideBySide(
                _cut(baseline.run(feeds), plans[0], count),
                _cut(optimized.run(other), plans[1], count),
                None if labels is None else labels[inside : inside + count],
                first + inside,
                count,
                plans[0].batchable,
            )
            inside += count
        first += inside


def _check_outputs(baseline: LoadedEngine, optimized: LoadedEngine) -> None:
    wanted = [output["name"] for output in baseline.outputs]
    given = {output["name"] for output in optimized.outputs}
    if missing := [name for name in wanted if name not in given]:
        raise InvalidModel(
            f"the optimized engine lacks the output {missing[0]!r}; it has {sorted(given)}",
            stage="verifying",
            hint="a pass changed the model's signature: leave it out",
        )


def _cut(outputs: Mapping[str, Any], plan: FeedPlan, count: int) -> Outputs:
    """Without the rows of samples that only filled up a fixed batch; outputs without a row a sample stay whole."""
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    if plan.fixed_batch is None or count == plan.fixed_batch:
        return arrays
    return {
        name: value[:count] if value.ndim and len(value) == plan.fixed_batch else value
        for name, value in arrays.items()
    }
