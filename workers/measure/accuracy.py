"""A metric of two engines on the same samples: its value on each, and the drop between them, all with intervals."""

from typing import Any

import numpy as np

from app.catalog.metrics import METRICS
from app.errors import InvalidDataset, InvalidModel
from app.measurements.compare import (
    Budget,
    Interval,
    Z,
    budget_decision,
    paired_share_interval,
    samples_needed_for_means,
    samples_needed_for_shares,
    share_interval,
)
from workers.measure.metrics import registry
from workers.measure.side_by_side import SideBySide
from workers.measure.statistics import mean_interval


class Accuracy:
    """Gathers a score a sample for both engines (16 bytes a sample), in pairs."""

    def __init__(self, metric: str, output: str | None = None):
        self.spec = METRICS[metric]
        self._scores = registry.alone(metric)
        self._output = output
        self._baseline: list[np.ndarray] = []
        self._optimized: list[np.ndarray] = []

    def observe(self, run: SideBySide) -> None:
        """Score the samples of one run. The output is the one that was named, else the model's first.

        Raises:
            SignatureMismatch, InvalidDataset: output, labels and metric do not fit.
            InvalidModel: a model's output gives no finite score.
        """
        baseline, optimized = run.rows(self._output or next(iter(run.baseline)))
        if self.spec.paired:
            self._optimized.append(self._finite("optimized", optimized, baseline, run.first))
            return
        if run.labels is None:
            raise InvalidDataset(
                f"the metric {self.spec.name} needs labels and the dataset has none",
                param="evaluation.metric",
                hint="upload data with an array called `labels`",
            )
        self._baseline.append(self._finite("original", baseline, run.labels, run.first))
        self._optimized.append(self._finite("optimized", optimized, run.labels, run.first))

    def of_baseline(self, seed: int) -> dict[str, Any] | None:
        """`accuracy` of `api.md`: {value, low, high, samples, metric, unit}; None for a metric that compares both models."""
        return None if self.spec.paired else self._described(np.concatenate(self._baseline), seed)

    def of_optimized(self, seed: int) -> dict[str, Any]:
        """The same of the optimized engine."""
        return self._described(np.concatenate(self._optimized), seed)

    def drop(self, seed: int) -> Interval | None:
        """How much worse the optimized engine is, in the metric's unit, positive where it is; None where it is paired.

        Scores of 0 and 1: Tango's interval, which has a width without a single difference too. Others: bootstrap of the
        samples' differences; where those are all equal and the metric is bounded, Tango's width for no difference.
        """
        if self.spec.paired:
            return None
        worse, better = self._oriented()
        if self._binary():
            return paired_share_interval(*_discordant(worse, better), len(worse))
        differences = worse - better
        found = mean_interval(differences, seed)
        if self.spec.low is None or self.spec.high is None or np.ptp(differences) > 0:
            return found
        half = (self.spec.high - self.spec.low) * Z**2 / (len(differences) + Z**2)
        return Interval(found.value, found.value - half, found.value + half)

    def within_budget(self, max_drop: float, seed: int) -> tuple[Budget | None, int | None]:
        """Whether the drop is allowed, and, where that is undecided, about how many samples would decide it (None: no
        number would). A paired metric has no drop: (None, None)."""
        drop = self.drop(seed)
        if drop is None:
            return None, None
        decision = budget_decision(drop, max_drop)
        if decision != "undecided":
            return decision, None
        worse, better = self._oriented()
        if self._binary():
            return decision, samples_needed_for_shares(*_discordant(worse, better), len(worse), max_drop)
        return decision, samples_needed_for_means(drop, len(worse), max_drop)

    def _oriented(self) -> tuple[np.ndarray, np.ndarray]:
        """(baseline, optimized), turned so that first less second is the drop."""
        sides = np.concatenate(self._baseline), np.concatenate(self._optimized)
        return sides if self.spec.higher_is_better else (sides[1], sides[0])

    def _binary(self) -> bool:
        return (
            self.spec.low == 0
            and self.spec.high == 1
            and all(_is_binary(scores) for scores in (*self._baseline, *self._optimized))
        )

    def _described(self, scores: np.ndarray, seed: int) -> dict[str, Any]:
        if self._binary():
            found = share_interval(int(scores.sum()), len(scores))
        else:
            found = mean_interval(scores, seed)
        return {
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "samples": len(scores),
            "metric": self.spec.name,
            "unit": self.spec.unit,
        }

    def _finite(self, side: str, outputs: np.ndarray, expected: np.ndarray, first: int) -> np.ndarray:
        scores = self._scores(outputs, expected, first)
        wrong = np.flatnonzero(~np.isfinite(scores))
        if wrong.size:
            raise InvalidModel(
                f"the {side} model's output gives no finite {self.spec.name} for sample {first + int(wrong[0])}",
                stage="verifying",
                hint="look for NaN and infinities in the data and in the model's outputs",
            )
        return scores


def _is_binary(scores: np.ndarray) -> bool:
    return bool(np.all((scores == 0) | (scores == 1)))


def _discordant(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """How many samples only the first, and only the second, hits."""
    return int(np.sum(first > second)), int(np.sum(second > first))
