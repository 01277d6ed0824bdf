"""A runtime that computes something else than the model's own framework is told."""

from typing import Any

import numpy as np
import pytest

from app.errors import InvalidModel, SignatureMismatch, UnsupportedOperator
from tests.workers.measure.engines import FunctionEngine
from workers.samples import synthetic_samples
from workers.verify import verify_baseline

SIGNATURE = {"inputs": [{"name": "x", "dtype": "float32", "shape": ["n", 8]}]}
Run = Any


def engine(run: Run) -> FunctionEngine:
    return FunctionEngine(run, {"x": [None, 8]}, ["y"])


def told(source: Run, other: Run, precision: str = "fp32") -> list[str]:
    return verify_baseline(
        engine(source), engine(other), synthetic_samples(SIGNATURE, 0, 4), "some-runtime", precision
    )


def double(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"y": 2 * feeds["x"]}


def test_rounding_passes() -> None:
    assert told(double, lambda feeds: {"y": (2 * feeds["x"]) * np.float32(1 + 1e-6)}) == []


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda feeds: {"y": 2.01 * feeds["x"]}, "signal-to-noise ratio"),
        (lambda feeds: {"y": 2 * feeds["x"][:, :4]}, "shape"),
        (lambda feeds: {"y": 2 * feeds["x"] + np.float32(np.nan)}, "NaN or infinite in one alone"),
    ],
)
def test_other_values_are_an_error_that_names_output_and_runtime(other: Run, says: str) -> None:
    with pytest.raises(UnsupportedOperator, match=says) as caught:
        told(double, other)
    assert "some-runtime computes other values of the output 'y'" in caught.value.detail
    assert (caught.value.node, caught.value.stage) == ("y", "verifying")
    assert "another target" in str(caught.value.hint)


def test_a_model_of_few_bits_may_round_elsewhere() -> None:
    def near(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": 2.02 * feeds["x"]}  # 40 dB

    assert told(double, near, "int8") == []
    with pytest.raises(UnsupportedOperator):
        told(double, near)


def test_a_source_that_does_not_run_is_a_warning_and_a_baseline_that_does_not_an_error() -> None:
    def broken(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise SignatureMismatch("index out of range")

    (warning,) = told(broken, double)
    assert "could not be asked" in warning
    assert "index out of range" in warning

    def failing(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise InvalidModel("a kernel failed")

    with pytest.raises(InvalidModel, match="a kernel failed"):
        told(double, failing)
