"""`quantize-openvino` with a bound on a metric: real networks, ranges that hurt, labels that tell."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.catalog.passes import PASSES
from app.errors import IncompatibleRecipe, InvalidDataset, SignatureMismatch
from tests.workers.engines.networks import ArraySamples, Network, answers
from workers import passes
from workers.context import PassContext
from workers.model_handle import ModelHandle

Bounded = Callable[..., tuple[ModelHandle, PassContext]]


def named(digest: str, images: np.ndarray, labels: np.ndarray | None = None) -> ArraySamples:
    samples = ArraySamples({"images": images}, labels)
    samples.digest = digest
    return samples


@pytest.fixture
def bounded(cnn: Network, tmp_path: Path) -> Bounded:
    """`bounded(labels=…, images=…, **params)`: the network quantized with ranges that are far too narrow for its data."""
    count = 0

    def run(
        labels: np.ndarray | None = None, images: np.ndarray | None = None, **params: Any
    ) -> tuple[ModelHandle, PassContext]:
        nonlocal count
        count += 1
        out = tmp_path / f"out{count}"
        out.mkdir()
        samples = {
            "calibration": named("calibration", cnn.images[:4] * 0.2),
            "validation": named(
                "validation",
                cnn.images if images is None else images,
                cnn.labels if labels is None else labels,
            ),
        }
        context = PassContext(out=out, samples=samples)
        filled = PASSES["quantize-openvino"].params(**params)
        return passes.registry.alone("quantize-openvino")(cnn.model, filled, context), context

    return run


def top1(model: ModelHandle, cnn: Network) -> float:
    logits = answers(model, {"images": cnn.images})["logits"]
    return float(np.mean(logits.argmax(1) == cnn.labels))


def test_a_bound_that_holds_turns_nothing_back(cnn: Network, bounded: Bounded):
    model, context = bounded(max_drop=1.0)
    control = context.facts["accuracy_control"]
    assert control["reverted"] == []
    assert control["held"]
    assert (control["metric"], control["output"], control["samples"]) == ("top1", "logits", len(cnn.images))
    assert control["before"]["value"] == pytest.approx(top1(cnn.model, cnn))
    assert control["after"]["value"] == pytest.approx(top1(model, cnn))
    assert control["drop"]["value"] > 0.2  # so narrow are the ranges
    assert context.facts["left_out"] == []
    assert context.warnings == []


def test_nodes_are_turned_back_until_the_bound_holds(cnn: Network, bounded: Bounded):
    model, context = bounded(max_drop=0.02, metric="top1", output="logits")
    control = context.facts["accuracy_control"]
    assert control["held"]
    assert top1(cnn.model, cnn) - top1(model, cnn) <= 0.02
    assert control["drop"]["value"] <= 0.02
    floating = {name for entry in context.facts["left_out"] for name in entry["nodes"]}
    assert floating
    assert floating <= set(control["reverted"])
    assert {entry["reason"] for entry in context.facts["left_out"]} == {"turned back to hold max_drop 0.02"}
    assert context.facts["quantized"]
    assert 0 < context.facts["fused_share"] < 1


def test_the_same_cause_gives_the_same_bytes(bounded: Bounded):
    digests = {bounded(max_drop=0.02)[0].digest for _ in range(2)}
    assert len(digests) == 1


def test_a_bound_that_is_not_met_is_warned_of(cnn: Network, bounded: Bounded):
    model, context = bounded(max_drop=0.0, max_reverted=1)
    control = context.facts["accuracy_control"]
    assert not control["held"]
    assert control["drop"]["value"] == pytest.approx(top1(cnn.model, cnn) - top1(model, cnn))
    assert len(control["reverted"]) >= 1
    (text,) = context.warnings
    assert "max_drop 0 is not held" in text
    assert "max_reverted" in text


def test_few_samples_are_said_to_be_few(cnn: Network, bounded: Bounded):
    _, context = bounded(max_drop=0.05, validation_samples=40)
    control = context.facts["accuracy_control"]
    assert control["samples"] == control["before"]["samples"] == 40
    assert control["held"]
    assert control["drop"]["high"] > 0.05
    assert any("more samples would tell" in text for text in context.warnings)


def test_a_metric_where_less_is_better_rises_at_most_by_the_bound(cnn: Network, bounded: Bounded):
    exact = answers(cnn.model, {"images": cnn.images})["logits"]
    model, context = bounded(labels=exact, max_drop=1.0, metric="mae")
    control = context.facts["accuracy_control"]
    assert control["before"]["value"] < 0.01
    error = float(np.abs(answers(model, {"images": cnn.images})["logits"] - exact).mean())
    assert control["after"]["value"] == pytest.approx(error, rel=0.01)
    assert error <= 1.0
    assert control["reverted"]


def test_a_bound_that_leaves_nothing_in_8_bits_is_refused(cnn: Network, bounded: Bounded):
    exact = answers(cnn.model, {"images": cnn.images})["logits"]
    with pytest.raises(IncompatibleRecipe) as refusal:
        bounded(labels=exact, max_drop=1e-5, metric="mae", validation_samples=32)
    assert "max_drop" in refusal.value.detail
    assert "larger drop" in refusal.value.hint


def test_samples_that_calibration_read_too_are_warned_of(cnn: Network, bounded: Bounded):
    images = np.concatenate([cnn.images[:4] * np.float32(0.2), cnn.images[4:60]])
    _, context = bounded(images=images, labels=cnn.labels[:60], max_drop=1.0)
    assert any("4 of 60 validation samples also stand in the calibration" in one for one in context.warnings)


def test_labels_that_do_not_fit_are_refused(cnn: Network, bounded: Bounded):
    with pytest.raises(InvalidDataset) as wrong:
        bounded(labels=cnn.labels + 10, max_drop=0.1)
    assert "label" in wrong.value.detail
    with pytest.raises(SignatureMismatch):
        bounded(labels=cnn.labels.astype(np.float32), max_drop=0.1)
    with pytest.raises(SignatureMismatch):
        bounded(images=cnn.images[..., :4], max_drop=0.1)
    with pytest.raises(InvalidDataset) as none:
        bounded(images=cnn.images[:0], labels=cnn.labels[:0], max_drop=0.1)
    assert "no samples" in none.value.detail
