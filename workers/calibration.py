"""Ranges of activations, from running samples through a model: one sample in memory at a time, whatever their number.

The first run takes each tensor's extremes, reduced inside the model. `entropy` and `percentile` take a second run,
which counts magnitudes into histograms of a known width: nothing is kept of a sample but its counts, and the order
of the samples does not matter.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from app.errors import InvalidDataset
from workers.context import Feeds, Samples
from workers.feeds import plan_feeds
from workers.onnx_errors import refused
from workers.onnx_files import save_onnx, signature_of

Method = Literal["minmax", "entropy", "percentile"]
Ranges = dict[str, tuple[float, float]]
Report = Callable[[int, int, str], None]
READ_AT_ONCE = 16  # samples
ENTROPY_CANDIDATES = 512
SMALLEST_SHARE = 1e-10  # stands for an empty bin of the quantized distribution in the divergence


@dataclass(frozen=True)
class Plan:
    """What to calibrate: float tensors of the main graph, by name, with how."""

    tensors: Sequence[str]
    method: Method
    bins: int
    percentile: float
    samples: int | None
    unsigned: bool  # whether quantized values are unsigned: tensors without negative values then have twice the levels


def collect_ranges(model: onnx.ModelProto, samples: Samples, plan: Plan, report: Report) -> Ranges:
    """{tensor: (low, high)} over the samples.

    Sources: Migacz, 8-bit Inference with TensorRT, GTC 2017 (entropy); Wu et al., Integer Quantization for Deep
    Learning Inference, 2020, section 5 (percentile of magnitudes).

    Raises:
        InvalidDataset: there are no samples, or the model gives NaN or infinity on one.
        InvalidModel: the model does not run.
    """
    total = min(samples.count, plan.samples or samples.count)
    extremes = _extremes(model, samples, plan, total, report)
    if plan.method == "minmax":
        return extremes
    histograms = _histograms(model, samples, plan, total, extremes, report)
    ranges: Ranges = {}
    for name, (low, high) in extremes.items():
        largest = max(abs(low), abs(high))
        if plan.method == "percentile":
            cut = percentile_cut(histograms[name], largest, plan.percentile)
        else:
            levels = 256 if plan.unsigned and low >= 0 else 128
            cut = entropy_cut(histograms[name].counts, largest, levels)
        ranges[name] = (max(low, -cut), min(high, cut))
    return ranges


@dataclass
class Histogram:
    """Magnitudes other than zero, counted in equal bins from 0 to the largest; zeros are counted beside."""

    counts: np.ndarray
    zeros: int = 0

    def add(self, values: np.ndarray, largest: float) -> None:
        """Count a tensor's values."""
        magnitudes = np.abs(values[values != 0])
        self.zeros += values.size - magnitudes.size
        if largest > 0:
            self.counts += np.histogram(magnitudes, bins=self.counts.size, range=(0.0, largest))[0]


def percentile_cut(histogram: Histogram, largest: float, percentile: float) -> float:
    """The magnitude that `percentile` percent of all values do not pass."""
    total = histogram.zeros + int(histogram.counts.sum())
    if total == 0 or largest == 0:
        return largest
    share = (histogram.zeros + np.cumsum(histogram.counts)) / total
    index = int(np.searchsorted(share, percentile / 100.0))
    return largest * min(index + 1, histogram.counts.size) / histogram.counts.size


def entropy_cut(counts: np.ndarray, largest: float, levels: int) -> float:
    """The magnitude at which cutting loses the least: smallest Kullback-Leibler divergence to `levels` levels."""
    bins = counts.size
    if largest == 0 or counts.sum() == 0 or bins <= levels:
        return largest
    step = max(1, (bins - levels) // ENTROPY_CANDIDATES)
    candidates = range(levels, bins + 1, step)
    divergences = [_divergence(counts, kept, levels) for kept in candidates]
    return largest * candidates[int(np.argmin(divergences))] / bins


def _divergence(counts: np.ndarray, kept: int, levels: int) -> float:
    """Of the distribution cut after `kept` bins (what lies beyond falls on the last) from its quantized form."""
    inside = counts[:kept].astype(np.float64)
    starts = np.linspace(0, kept, levels, endpoint=False).astype(np.int64)
    filled = inside > 0
    sums = np.add.reduceat(inside, starts)
    used = np.add.reduceat(filled.astype(np.float64), starts)
    level = np.divide(sums, used, out=np.zeros_like(sums), where=used > 0)
    quantized = np.repeat(level, np.diff(np.append(starts, kept))) * filled
    reference = inside
    reference[-1] += counts[kept:].sum()
    reference = reference / reference.sum()
    quantized = quantized / max(quantized.sum(), 1.0)
    held = reference > 0
    return float(
        np.sum(reference[held] * np.log(reference[held] / np.maximum(quantized[held], SMALLEST_SHARE)))
    )


def _extremes(model: onnx.ModelProto, samples: Samples, plan: Plan, total: int, report: Report) -> Ranges:
    lows = {name: f"{name}__lowest" for name in plan.tensors}
    highs = {name: f"{name}__highest" for name in plan.tensors}
    nodes = [helper.make_node("ReduceMin", [name], [low], keepdims=0) for name, low in lows.items()]
    nodes += [helper.make_node("ReduceMax", [name], [high], keepdims=0) for name, high in highs.items()]
    outputs = [*lows.values(), *highs.values()]
    ranges: Ranges = {}
    for index, values in enumerate(probed(model, nodes, outputs, samples, plan.samples)):
        report(index, total, "taking extremes")
        for name in plan.tensors:
            low, high = float(values[lows[name]]), float(values[highs[name]])
            if not (np.isfinite(low) and np.isfinite(high)):
                raise InvalidDataset(
                    f"the tensor {name!r} holds NaN or infinity on calibration sample {index}",
                    hint="remove the sample, or look for a fault in its preprocessing",
                )
            before = ranges.get(name, (low, high))
            ranges[name] = (min(before[0], low), max(before[1], high))
    if not ranges and plan.tensors:
        raise InvalidDataset(
            "the calibration dataset has no samples",
            hint="name one with some that are like those that the network will see",
        )
    return ranges


def _histograms(
    model: onnx.ModelProto,
    samples: Samples,
    plan: Plan,
    total: int,
    extremes: Ranges,
    report: Report,
) -> dict[str, Histogram]:
    histograms = {name: Histogram(np.zeros(plan.bins, dtype=np.int64)) for name in plan.tensors}
    largest = {name: max(abs(low), abs(high)) for name, (low, high) in extremes.items()}
    for index, values in enumerate(probed(model, [], list(plan.tensors), samples, plan.samples)):
        report(index, total, "counting")
        for name, histogram in histograms.items():
            histogram.add(values[name], largest[name])
    return histograms


def probed(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    outputs: list[str],
    samples: Samples,
    limit: int | None,
) -> Iterator[dict[str, np.ndarray]]:
    """The values of `outputs`, fp32, for each run of the model with `nodes` added to it: one sample after another."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.node.extend(nodes)
    del probe.graph.output[:]
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with tempfile.TemporaryDirectory() as folder, refused("running calibration samples"):
        path = save_onnx(probe, Path(folder)).path
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for feed in _feeds(model, samples, limit):
            yield dict(zip(outputs, session.run(outputs, feed), strict=True))


def _feeds(model: onnx.ModelProto, samples: Samples, limit: int | None) -> Iterator[Feeds]:
    """One sample after another, shaped as the model takes it; a model of a fixed batch gets that many at once."""
    inputs = [
        {
            "name": name,
            "dtype": helper.tensor_dtype_to_np_dtype(kind).name,
            "shape": [dim if isinstance(dim, int) and dim > 0 else None for dim in shape],
        }
        for name, (kind, shape) in signature_of(model)["inputs"].items()
    ]
    plan = plan_feeds(inputs, samples.inputs)
    for several, _ in samples.batches(max(READ_AT_ONCE, plan.fixed_batch or 1), limit):
        for feed, _ in plan.feeds(several, 1):
            yield feed
