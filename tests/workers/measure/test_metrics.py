"""What every metric of the catalog promises, and what each means."""

import inspect
from typing import Any

import numpy as np
import pytest

from app.catalog.metrics import METRICS
from app.errors import InvalidDataset, SignatureMismatch
from workers.measure.metrics import registry

NAMES = sorted(METRICS)
Case = tuple[np.ndarray, np.ndarray]


def perfect(name: str) -> Case:
    """Outputs of six samples that could not be better, and what was expected."""
    classes = np.arange(6) % 3
    scores = np.eye(8, dtype=np.float32)[classes]
    numbers = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    return {
        "top1": (scores, classes),
        "top5": (scores, classes),
        "exact_match": (classes, classes),
        "snr": (numbers, numbers),
        "mae": (numbers, numbers),
    }[name]


def bad(name: str) -> Case:
    """The same as bad as they could be, for samples 1, 3 and 5."""
    outputs, expected = perfect(name)
    outputs = outputs.copy()
    outputs[1::2] = {"exact_match": -1}.get(name, -outputs[1::2] * 3)
    if name == "top5":
        outputs[1::2] += np.arange(8)  # so that five others lie above
        outputs[1::2][:, :3] = -9
    return outputs, expected


def test_every_spec_is_implemented_and_nothing_else():
    registry.check(set(METRICS))


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_a_number_a_sample_within_bounds(name: str):
    spec = METRICS[name]
    for outputs, expected in (perfect(name), bad(name)):
        scores = registry.get(name)(outputs, expected, 0)
        assert scores.shape == (6,)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()
        assert spec.low is None or (scores >= spec.low).all()
        assert spec.high is None or (scores <= spec.high).all()


@pytest.mark.parametrize("name", NAMES)
def test_better_is_on_the_side_that_the_spec_says(name: str):
    best, worse = (registry.get(name)(*case, 0) for case in (perfect(name), bad(name)))
    sign = 1 if METRICS[name].higher_is_better else -1
    assert (sign * best[1::2] > sign * worse[1::2]).all()
    np.testing.assert_array_equal(best[::2], worse[::2])
    if (bound := METRICS[name].high if sign > 0 else METRICS[name].low) is not None:
        assert (best == bound).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_does_not_depend_on_its_batch(name: str):
    outputs, expected = bad(name)
    whole = registry.get(name)(outputs, expected, 0)
    parts = [registry.get(name)(outputs[i : i + 1], expected[i : i + 1], i) for i in range(6)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("name", NAMES)
def test_misshapen_labels_are_refused(name: str):
    outputs, expected = perfect(name)
    wrong = np.zeros((6, 3, 5, 2), expected.dtype)
    with pytest.raises(SignatureMismatch) as refusal:
        registry.get(name)(outputs, wrong, 0)
    assert refusal.value.param


@pytest.mark.parametrize("name", NAMES)
def test_texts_where_numbers_belong_are_refused(name: str):
    outputs, expected = perfect(name)
    with pytest.raises(SignatureMismatch):
        registry.get(name)(outputs, np.full(expected.shape, "a"), 0)


@pytest.mark.parametrize("name", NAMES)
def test_describes_itself(name: str):
    spec = METRICS[name]
    assert spec.name == name
    assert spec.documentation.endswith(".")
    assert spec.unit
    assert spec.needs_labels != spec.paired
    assert inspect.getdoc(registry.get(name))


@pytest.mark.parametrize(
    ("outputs", "labels", "scores"),
    [
        ([[1, 3, 2], [1, 3, 2]], [1, 2], [1, 0]),
        ([[1, 3, 2], [1, 3, 2]], [[1], [2]], [1, 0]),  # a label in an axis of its own
        ([[2, 2, 1], [2, 2, 1]], [0, 1], [1, 0]),  # equal scores: the first is the largest, as for argmax
        ([[np.nan, 3, 2], [np.inf, 0, 1]], [1, 0], [0, 1]),  # NaN: no answer
        ([[[1, 2], [2, 1]]], [[1, 1]], [0.5]),  # [n, positions, C]
        ([[[[1.0, 2], [3, 0]], [[2, 1], [1, 1]], [[0, 0], [0, 0]]]], [[[1, 0], [0, 2]]], [0.75]),  # [n, C, h, w]
    ],
)  # fmt: skip
def test_top1(outputs: Any, labels: Any, scores: Any):
    found = registry.get("top1")(np.array(outputs, dtype=np.float32), np.array(labels), 0)
    np.testing.assert_allclose(found, scores)


def test_top1_is_argmax():
    random = np.random.default_rng(0)
    outputs = np.round(random.standard_normal((500, 6)), 1)  # with ties
    labels = random.integers(0, 6, 500)
    expected = outputs.argmax(axis=1) == labels
    np.testing.assert_array_equal(registry.get("top1")(outputs, labels, 0), expected)


def test_top5():
    outputs = np.array([[9, 8, 7, 6, 5, 4, 3]] * 3)
    np.testing.assert_array_equal(registry.get("top5")(outputs, np.array([0, 4, 5]), 0), [1, 1, 0])


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_names_its_sample(label: int):
    labels = np.array([0, 1, label, 2])
    with pytest.raises(InvalidDataset, match=rf"sample 102 is {label}\b.*0 to 2"):
        registry.get("top1")(np.zeros((4, 3), np.float32), labels, 100)


def test_labels_that_are_no_integers_are_refused():
    with pytest.raises(SignatureMismatch, match="float32"):
        registry.get("top1")(np.zeros((2, 3), np.float32), np.zeros(2, np.float32), 0)


def test_exact_match():
    match = registry.get("exact_match")
    np.testing.assert_array_equal(match(np.array([[1, 2], [1, 2]]), np.array([[1, 2], [1, 3]]), 0), [1, 0])
    np.testing.assert_array_equal(match(np.array([[7], [8]]), np.array([7, 9], dtype=np.int32), 0), [1, 0])
    texts = np.array([["ja"], [b"nein"]], dtype=object)
    np.testing.assert_array_equal(match(texts, np.array(["ja", "nein"]), 0), [1, 1])
    with pytest.raises(SignatureMismatch, match="float32"):
        match(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.int64), 0)


def test_snr_in_decibels():
    original = np.ones((4, 100), np.float32)
    noisy = original.copy()
    noisy[0] += 0.1
    noisy[2, 3] = np.nan
    original[3], noisy[3] = -np.inf, -np.inf  # masked on both sides
    found = registry.get("snr")(noisy, original, 0)
    assert found[0] == pytest.approx(20, abs=1e-3)
    np.testing.assert_array_equal(found[1:], [150, -150, 150])


def test_mae():
    found = registry.get("mae")(np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([[2, 1], [0, 0]]), 0)
    np.testing.assert_array_equal(found, [1.5, 0])
