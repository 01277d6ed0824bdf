"""Targets as one word in a request."""

import pytest
from pydantic import TypeAdapter, ValidationError

from app.catalog.recipe import Target, validate_target
from app.catalog.short_target import short_target
from app.errors import InvalidParams
from app.jobs.schemas import TargetRequest

REQUEST: TypeAdapter[Target] = TypeAdapter(TargetRequest)


@pytest.mark.parametrize(
    ("text", "runtime", "params"),
    [
        ("onnxruntime-cpu", "onnxruntime-cpu", {}),
        ("tensorrt-rtx:sm89", "tensorrt-rtx", {"compute_capabilities": [89]}),
        ("tensorrt-rtx:sm86+sm120", "tensorrt-rtx", {"compute_capabilities": [86, 120]}),
        ("tensorrt-rtx:89", "tensorrt-rtx:89", {}),
    ],
)
def test_a_word_is_a_target(text: str, runtime: str, params: dict[str, object]) -> None:
    target = REQUEST.validate_python(text)
    assert (target.runtime, target.params) == (runtime, params)


def test_a_gpu_that_the_library_does_not_serve_is_refused() -> None:
    with pytest.raises(InvalidParams) as refusal:
        validate_target(Target.model_validate(short_target("tensorrt-rtx:sm90")))
    assert "compute_capabilities[0]" in (refusal.value.param or "")


def test_a_runtime_without_compute_capabilities_says_so() -> None:
    with pytest.raises(InvalidParams) as refusal:
        validate_target(Target.model_validate(short_target("onnxruntime-cpu:sm89")))
    assert refusal.value.param == "targets[0].params.compute_capabilities"


def test_other_types_are_refused() -> None:
    with pytest.raises(ValidationError):
        REQUEST.validate_python(7)
