"""A metric on labelled samples as NNCF's accuracy control asks for it, and what it has turned back to floating point.

NNCF validates the model before and after quantization, then once for each group of nodes that share ranges (on the samples
that suffered most), then on all samples after each group that it turns back.

Source: nncf.quantize_with_accuracy_control; Kozlov et al., 2020 (https://arxiv.org/abs/2002.08679).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.catalog.metrics import METRICS
from app.errors import InvalidDataset, InvalidModel, SignatureMismatch
from workers import openvino_model
from workers.context import Feeds, PassContext, Samples
from workers.feeds import plan_feeds
from workers.measure.accuracy import Accuracy
from workers.measure.metrics import registry
from workers.measure.overlap import overlap
from workers.measure.side_by_side import run_side_by_side
from workers.runtimes.openvino_loaded import LoadedOpenVino

READ_AT_ONCE = 16  # samples
ROUNDING = 1e-9  # a drop of 0.97 to 0.96 is one of 0.01

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Item:
    """One run: its feeds, the labels of the samples that count in it, and the number of the first."""

    feeds: Feeds
    labels: np.ndarray
    first: int


@dataclass(frozen=True)
class Bound:
    """How much of a metric at an output (None: the first) may be lost, on at most `samples` samples (None: all)."""

    max_drop: float
    metric: str
    output: str | None
    samples: int | None


class Validation:
    """Iterates over the runs, as often as it is asked to; called with a compiled model and runs, it gives its metric."""

    def __init__(self, graph: Any, samples: Samples, bound: Bound, stage: str, report: Report):
        """Raises InvalidDataset where there are no samples, SignatureMismatch where they do not fit the model."""
        self._signature = openvino_model.signature_of(graph)
        self._plan = plan_feeds(self._signature["inputs"], samples.inputs)
        self.rounds = 0
        self.highest_drop = bound.max_drop + ROUNDING
        self.metric = METRICS[bound.metric]
        self.output = bound.output or self._signature["outputs"][0]["name"]
        self.samples = min(samples.count, bound.samples or samples.count)
        self._scores = registry.alone(bound.metric)
        self._source, self._bound, self._stage, self._report = samples, bound, stage, report
        if not self.samples:
            raise InvalidDataset("the validation dataset has no samples", stage=stage)

    def __iter__(self) -> Iterator[Item]:
        done = 0
        size = max(READ_AT_ONCE, self._plan.fixed_batch or 1)
        for several, labels in self._source.batches(size, self.samples):
            if labels is None:
                raise InvalidDataset(
                    f"the metric {self.metric.name} needs labels and the validation dataset has none",
                    stage=self._stage,
                    hint="upload data with an array called `labels`",
                )
            inside = 0
            for feeds, count in self._plan.feeds(several, 1):
                self._report(done + inside, self.samples, f"validating, round {self.rounds}")
                yield Item(feeds, labels[inside : inside + count], done + inside)
                inside += count
            done += inside

    def __call__(self, compiled: Any, items: Iterable[Item]) -> tuple[float, list[float]]:
        """The metric, turned so that more is better, and its value of each run.

        Raises:
            SignatureMismatch, InvalidDataset: output, labels and metric do not fit.
            InvalidModel: the model does not run, or gives no finite score.
        """
        self.rounds += 1
        engine = LoadedOpenVino(compiled, self._signature, several=False)
        sign = 1 if self.metric.higher_is_better else -1
        scores = [sign * self._scored(engine, item) for item in items]
        return float(np.mean(np.concatenate(scores))), [float(np.mean(score)) for score in scores]

    def outcome(self, original: Any, quantized: Any, ctx: PassContext) -> dict[str, Any]:
        """What the bound came to, of the compiled models: {metric, output, max_drop, samples, before, after (both as
        `accuracy` of a measurement), drop {value, low, high}, held, rounds}. Warns where it is not held or not sure.
        """
        accuracy = Accuracy(self.metric.name, self.output)
        before, after = (LoadedOpenVino(one, self._signature, several=False) for one in (original, quantized))
        for run in run_side_by_side(before, after, self._source, self.samples):
            accuracy.observe(run)
        drop, limit = accuracy.drop(ctx.seed), self._bound.max_drop
        assert drop is not None  # no paired metric comes here
        held = drop.value <= self.highest_drop
        of = f"the drop of {self.metric.name} on {self.samples} validation samples"
        if not held:
            ctx.warn(
                f"max_drop {limit:g} is not held: {of} is {drop.value:.4g} after as many nodes were turned back to "
                "floating point as max_reverted allows"
            )
        elif drop.high > limit:
            ctx.warn(
                f"{of} is {drop.value:.4g}, but at 95% it may be up to {drop.high:.4g}, more than max_drop {limit:g}: "
                "more samples would tell"
            )
        if shared := overlap([ctx.samples["calibration"]], self._source):
            ctx.warn(
                f"{shared} of {self._source.count} validation samples also stand in the calibration data: {of} says less "
                "about new data"
            )
        return {
            "metric": self.metric.name,
            "output": self.output,
            "max_drop": limit,
            "samples": self.samples,
            "before": accuracy.of_baseline(ctx.seed),
            "after": accuracy.of_optimized(ctx.seed),
            "drop": {"value": drop.value, "low": drop.low, "high": drop.high},
            "held": held,
            "rounds": self.rounds,
        }

    def _scored(self, engine: LoadedOpenVino, item: Item) -> np.ndarray:
        count = len(item.labels)
        rows = self._plan.cut(engine.run(item.feeds), count)[self.output]
        if len(rows) != count:
            raise SignatureMismatch(
                f"the first axis of output {self.output!r} does not count samples: its shape is {list(rows.shape)} for "
                f"{count} samples",
                stage=self._stage,
                param="output",
                hint="name an output with one row a sample",
            )
        scores = self._scores(rows, item.labels, item.first)
        if not np.isfinite(scores).all():
            raise InvalidModel(
                f"the model's output gives no finite {self.metric.name} for validation sample {item.first}",
                stage=self._stage,
                hint="look for NaN and infinities in the data and in the model's outputs",
            )
        return scores
