"""A bound that a pass holds on labelled data: what it needs, and what is refused."""

import dataclasses
from typing import Any

import pytest

from app.catalog.passes import PASSES
from app.catalog.recipe import Recipe, Target, plan
from app.catalog.spec import need_text
from app.errors import InvalidParams, SignatureMismatch
from tests.app.catalog.test_recipe import Options, dataset, model

NAME = "quantize-openvino"
TARGET = Target(runtime="openvino-cpu")
LABELS = {"name": "labels", "dtype": "int64", "shape": [], "classes": 10}
CALIBRATION, VALIDATION = "dat_1", "dat_2"


def data(labels: dict[str, Any] | None = LABELS):
    """A calibration set, and a validation set with labels."""
    validation = dataset(VALIDATION)[VALIDATION]
    return {**dataset(CALIBRATION), VALIDATION: dataclasses.replace(validation, labels=labels)}


def planned(params: dict[str, Any], *, inputs: dict[str, str] | None = None, facts=None, datasets=None):
    """The step as it will be done; validation data is named unless told."""
    if inputs is None:
        inputs = {"validation": VALIDATION}
    step = {"pass": NAME, "params": params, "inputs": {"calibration": CALIBRATION, **inputs}}
    recipe = Recipe.model_validate({"schema": 1, "passes": [step]})
    found = plan(recipe, facts or model(), TARGET, datasets or data(), None, Options())
    return found.passes[0]


def refused(params: dict[str, Any], error: type[Exception] = InvalidParams, **given: Any) -> Any:
    with pytest.raises(error) as refusal:
        planned(params, **given)
    return refusal.value


def test_metric_and_output_are_filled_in():
    step = planned({"max_drop": 0.01})
    assert (step.params["metric"], step.params["output"]) == ("top1", "logits")
    assert step.inputs == {"calibration": CALIBRATION, "validation": VALIDATION}
    again = planned(step.params)
    assert again == step


def test_without_a_bound_no_validation_data_is_needed_or_taken():
    step = planned({}, inputs={})
    assert step.params["max_drop"] is None
    assert PASSES[NAME].needs(step.params) == {"calibration": "required-or-synthetic"}
    error = refused({})
    assert error.param == "recipe.passes[0].inputs.validation"
    assert error.hint == "validation data is required where max_drop is given"
    assert need_text(PASSES[NAME].inputs["validation"]) == "required where max_drop is given"


def test_a_bound_needs_labelled_validation_data():
    missing = refused({"max_drop": 0.01}, inputs={})
    assert missing.param == "recipe.passes[0].inputs.validation"
    assert "validation" in missing.hint
    for metric in ("top1", "mae", None):
        unlabelled = refused({"max_drop": 0.01, "metric": metric}, datasets=data(labels=None))
        assert unlabelled.param == "recipe.passes[0].inputs.validation"
        assert "has none" in unlabelled.detail
        assert "snr" not in unlabelled.hint  # needs no labels, and holds no bound


@pytest.mark.parametrize(
    "params",
    [{"metric": "top1"}, {"output": "logits"}, {"validation_samples": 10}, {"max_reverted": 2}],
    ids=lambda params: next(iter(params)),
)
def test_what_counts_only_beside_a_bound_is_refused_without_one(params: dict[str, Any]):
    error = refused(params, inputs={})
    assert error.param == f"recipe.passes[0].params.{next(iter(params))}"
    assert "max_drop" in error.detail


def test_a_wrong_bound_is_the_only_mistake_that_is_told():
    error = refused({"max_drop": -1, "metric": "top1"})
    assert [one["param"] for one in error.errors] == ["recipe.passes[0].params.max_drop"]


@pytest.mark.parametrize(("metric", "says"), [("snr", "nothing can drop"), ("top2", "no metric called")])
def test_only_metrics_that_can_drop_are_taken(metric: str, says: str):
    error = refused({"max_drop": 0.01, "metric": metric})
    assert error.param == "recipe.passes[0].params.metric"
    assert says in error.detail
    assert "top1" in error.hint


def test_the_output_must_be_one_of_the_models():
    boxes = {"name": "boxes", "dtype": "float32", "shape": ["batch", 4]}
    facts = model(outputs=(*model().outputs, boxes))
    assert planned({"max_drop": 0.01, "output": "boxes"}, facts=facts).params["output"] == "boxes"
    assert refused({"max_drop": 0.01}, facts=facts).param == "recipe.passes[0].params.output"
    unknown = refused({"max_drop": 0.01, "output": "masks"}, SignatureMismatch, facts=facts)
    assert unknown.param == "recipe.passes[0].params.output"
    assert unknown.hint == "its outputs are logits, boxes"


def test_the_machine_counts_only_where_a_bound_chooses_by_its_kernels():
    spec = PASSES[NAME]
    assert not spec.by_machine(planned({}, inputs={}).params)
    assert spec.by_machine(planned({"max_drop": 0.01}).params)
    assert not PASSES["simplify"].by_machine({})
