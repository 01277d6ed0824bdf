"""Fidelity of known differences, however the samples come."""

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from workers.measure.fidelity import Fidelity
from workers.measure.side_by_side import SideBySide


def observed(pairs: list[tuple[Any, Any]]) -> tuple[dict[str, Any], list[str]]:
    """What fidelity says of one output over some runs."""
    fidelity = Fidelity()
    for number, (wanted, got) in enumerate(pairs):
        run = SideBySide({"y": np.asarray(wanted)}, {"y": np.asarray(got)}, None, number, 1, True)
        fidelity.observe(run)
    result = fidelity.result()
    json.dumps(result, allow_nan=False)
    return result["outputs"]["y"], fidelity.warnings()


def test_figures_of_a_known_difference():
    random = np.random.default_rng(0)
    wanted = random.standard_normal((200, 10)).astype(np.float32)
    got = wanted + np.float32(0.1) * random.standard_normal((200, 10)).astype(np.float32)
    found, warnings = observed([(wanted, got)])
    a, b = wanted.astype(np.float64).ravel(), got.astype(np.float64).ravel()
    assert found["cosine"] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert found["sqnr_db"] == pytest.approx(10 * np.log10(a @ a / ((a - b) @ (a - b))))
    assert found["sqnr_db"] == pytest.approx(20, abs=0.5)
    assert found["max_abs"] == np.abs(a - b).max()
    assert found["top1_agreement"] == np.mean(wanted.argmax(1) == got.argmax(1)) < 1
    assert found["exact_agreement"] is None
    assert warnings == []


def test_batches_do_not_matter():
    random = np.random.default_rng(1)
    wanted, got = random.standard_normal((60, 5)), random.standard_normal((60, 5))
    whole, _ = observed([(wanted, got)])
    parts, _ = observed([(wanted[i : i + 7], got[i : i + 7]) for i in range(0, 60, 7)])
    assert parts == pytest.approx(whole)


def test_no_difference():
    wanted = np.array([[1.0, 2.0], [3.0, 1.0]])
    found, warnings = observed([(wanted, wanted)])
    assert found["cosine"] == 1
    assert found["sqnr_db"] is None
    assert (found["max_abs"], found["top1_agreement"], warnings) == (0, 1, [])


@pytest.mark.parametrize(("value", "other"), [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan), (np.inf, -np.inf)])
def test_what_is_not_finite_on_one_side_is_counted_and_said(value: float, other: float):
    wanted, got = np.ones((4, 3)), np.ones((4, 3))
    wanted[1, 2], got[1, 2] = value, other
    found, warnings = observed([(wanted, got)])
    assert found["nonfinite_mismatches"] == 1
    assert found["max_abs"] == 0
    assert "1 elements of output 'y' are NaN or infinite" in warnings[0]


def test_the_same_infinity_on_both_sides_is_no_mismatch():
    wanted = np.array([[1.0, -np.inf], [np.nan, 2.0]])
    found, warnings = observed([(wanted, wanted.copy())])
    assert (found["nonfinite_mismatches"], found["max_abs"], warnings) == (0, 0, [])


@pytest.mark.parametrize(
    ("shape", "has_classes"),
    [((6, 4), True), ((2, 3, 4), True), ((6, 1), False), ((6,), False), ((2, 3, 4, 4), False), ((), False)],
)
def test_which_outputs_have_classes(shape: tuple[int, ...], has_classes: bool):
    found, _ = observed([(np.ones(shape, np.float32), np.ones(shape, np.float32))])
    assert found["top1_agreement"] == (1 if has_classes else None)


def test_a_lost_signal_is_said():
    random = np.random.default_rng(0)
    _, warnings = observed([(random.standard_normal((50, 9)), random.standard_normal((50, 9)))])
    assert "lost most of its detail" in warnings[0]


@pytest.mark.parametrize(
    ("wanted", "got", "max_abs", "agreement"),
    [
        (np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 9]]), 5, 0.75),
        (np.array([True, False]), np.array([True, True]), 1, 0.5),
        (np.array(["a", "b"], object), np.array(["a", "c"], object), None, 0.5),
    ],
)
def test_outputs_without_a_distance(wanted: Any, got: Any, max_abs: float | None, agreement: float):
    found, _ = observed([(wanted, got)])
    assert (found["max_abs"], found["exact_agreement"]) == (max_abs, agreement)
    assert found["cosine"] is found["sqnr_db"] is found["top1_agreement"] is None


def test_other_shapes_are_left_out_and_said():
    found, warnings = observed([(np.ones((1, 3)), np.ones((1, 4))), (np.ones((1, 3)), np.ones((1, 3)))])
    assert found["cosine"] == 1
    assert "another shape than the original's in 1 runs" in warnings[0]


def test_memory_does_not_grow_with_samples():
    random = np.random.default_rng(0)
    fidelity = Fidelity()

    def observe(runs: int) -> int:
        tracemalloc.reset_peak()
        for number in range(runs):
            values = {"y": random.standard_normal((1, 1000))}
            fidelity.observe(SideBySide(values, values, None, number, 1, True))
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        few = observe(50)
        assert observe(500) < few + 50_000
    finally:
        tracemalloc.stop()
