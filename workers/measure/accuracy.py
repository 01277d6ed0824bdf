"""Both engines over the same samples: scores side by side, and what the difference of their means is worth."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.catalog.metrics import METRICS
from app.catalog.spec import MetricSpec
from app.errors import InvalidModel, SignatureMismatch
from workers.context import Samples
from workers.feeds import plan_feeds
from workers.measure.fidelity import Fidelity
from workers.measure.metrics import registry
from workers.measure.statistics import Interval, mean_interval, paired_share_difference, share_interval
from workers.runtimes.base import LoadedEngine

BATCH = 32
FIDELITY_SAMPLES = 512  # without labels, so many samples show how far the outputs are apart


@dataclass
class Scores:
    """Per sample, in the dataset's order, what the metric gave for each side."""

    metric: MetricSpec
    baseline: list[np.ndarray] = field(default_factory=list)
    optimized: list[np.ndarray] = field(default_factory=list)

    def add(self, original: np.ndarray, output: np.ndarray, labels: np.ndarray | None) -> None:
        """Score the outputs of some samples."""
        score = registry.get(self.metric.name)
        self.optimized.append(score(output, labels, original))
        if not self.metric.paired:
            self.baseline.append(score(original, labels, original))

    def figures(self) -> tuple[dict[str, Any] | None, dict[str, Any], Interval | None]:
        """`accuracy` of baseline and optimized, and the drop; a paired metric has no baseline, hence no drop."""
        after = np.concatenate(self.optimized)
        if self.metric.paired:
            return None, self._accuracy(after), None
        before = np.concatenate(self.baseline)
        return (
            self._accuracy(before),
            self._accuracy(after),
            drop_interval(before, after, self.metric.higher_is_better),
        )

    def _accuracy(self, scores: np.ndarray) -> dict[str, Any]:
        interval = score_interval(scores)
        return {
            "metric": self.metric.name,
            "unit": self.metric.unit,
            "samples": len(scores),
            **bounds(interval),
        }


def run_both(
    baseline: LoadedEngine,
    optimized: LoadedEngine,
    samples: Samples,
    evaluation: Mapping[str, Any] | None,
    report: Callable[[int, int, str], None],
) -> tuple[Fidelity, Scores | None]:
    """Stream the samples through both engines, in constant memory but for one score a sample.

    Raises:
        SignatureMismatch: data, labels, output or metric do not fit.
        InvalidModel: the engine's outputs have other names or shapes than the original's.
    """
    plan = plan_feeds(baseline.inputs, samples.inputs)
    scores = Scores(METRICS[evaluation["metric"]]) if evaluation else None
    output = output_name(baseline, evaluation) if evaluation else None
    fidelity = Fidelity()
    limit = None if evaluation else FIDELITY_SAMPLES
    total, done = min(samples.count, limit or samples.count), 0
    for batch, labels in samples.batches(BATCH, limit):
        start = 0
        for feeds, count in plan.feeds(batch):
            first, second = (plan.cut(engine.run(feeds), count) for engine in (baseline, optimized))
            try:
                fidelity.add(first, second)
            except ValueError as error:
                raise InvalidModel(
                    f"the optimized model answers otherwise than the original: {error}", stage="verifying"
                ) from error
            if scores is not None and output is not None:
                check_rows(first[output], count, output)
                part = None if labels is None else labels[start : start + count]
                scores.add(first[output], second[output], part)
            start += count
        done += start
        report(done, total, "comparing outputs")
    return fidelity, scores


def output_name(engine: LoadedEngine, evaluation: Mapping[str, Any]) -> str:
    """The output that the metric reads: as the request says, else the first.

    Raises:
        SignatureMismatch: there is no such output.
    """
    names = [output["name"] for output in engine.outputs]
    wanted = evaluation.get("output") or names[0]
    if wanted not in names:
        raise SignatureMismatch(
            f"there is no output {wanted!r}; there are {names}", param="evaluation.output"
        )
    return str(wanted)


def check_rows(output: np.ndarray, count: int, name: str) -> None:
    """Raises SignatureMismatch where an output has no row a sample."""
    if output.ndim == 0 or len(output) != count:
        raise SignatureMismatch(
            f"output {name!r} of shape {list(output.shape)} has no row for each of {count} samples",
            param="evaluation.output",
            hint="name an output whose first axis counts the samples",
        )


def score_interval(scores: np.ndarray) -> Interval:
    """The interval of a mean score: of a share, where every score is 0 or 1."""
    if is_share(scores):
        return share_interval(float(scores.sum()), len(scores))
    return mean_interval(scores)


def drop_interval(before: np.ndarray, after: np.ndarray, higher_is_better: bool) -> Interval:
    """How much worse the second is, over the same samples; below 0 it is better."""
    if is_share(before) and is_share(after) and higher_is_better:
        only_before, only_after = int(np.sum(before > after)), int(np.sum(after > before))
        return paired_share_difference(only_before, only_after, len(before))
    return mean_interval(before - after if higher_is_better else after - before)


def is_share(scores: np.ndarray) -> bool:
    """Whether every score is 0 or 1."""
    return bool(np.isin(scores, (0.0, 1.0)).all())


def bounds(interval: Interval) -> dict[str, float | None]:
    """An interval as JSON: an unbounded side is null."""
    return {
        "value": interval.value,
        "low": interval.low if np.isfinite(interval.low) else None,
        "high": interval.high if np.isfinite(interval.high) else None,
    }
