"""Recipes held against catalog, model and datasets."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import ValidationError

from app.catalog import recipe as module
from app.catalog import recipe_data
from app.catalog.formats import FORMATS
from app.catalog.passes import PASSES
from app.catalog.recipe import DatasetFacts, Recipe, Target, plan, step_key, validate_target
from app.catalog.spec import PROTOBUF_LIMIT_BYTES, ModelFacts
from app.errors import IncompatibleRecipe, InvalidParams, SignatureMismatch, UnknownPass

TARGET = Target(runtime="onnxruntime-cpu")


@dataclass
class Options:
    allow_synthetic: bool = False


@dataclass
class Evaluation:
    dataset: str


def model(**changes: Any) -> ModelFacts:
    facts = ModelFacts(
        format="onnx",
        precision="fp32",
        operators={"Conv": 3, "Gemm": 1},
        size_bytes=1000,
        inputs=({"name": "images", "dtype": "float32", "shape": ["batch", 1, 8, 8]},),
        outputs=({"name": "logits", "dtype": "float32", "shape": ["batch", 10]},),
    )
    return dataclasses.replace(facts, **changes)


def dataset(
    id_: str = "dat_1", dtype: str = "float32", shape: tuple[int, ...] = (1, 8, 8), name: str = "images"
):
    return {id_: DatasetFacts(id_, "0" * 64, 100, {name: {"dtype": dtype, "shape": list(shape)}}, None)}


def recipe(*steps: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"schema": 1, "passes": list(steps)})


def planned(
    *steps: dict[str, Any], facts: ModelFacts | None = None, data=None, evaluation=None, **options: Any
) -> Recipe:
    return plan(recipe(*steps), facts or model(), TARGET, data or {}, evaluation, Options(**options))


def test_defaults_are_filled_in_and_versions_pinned():
    found = planned({"pass": "simplify"}, {"pass": "quantize-dynamic", "params": {"per_channel": False}})

    assert [step.version for step in found.passes] == [
        PASSES["simplify"].version,
        PASSES["quantize-dynamic"].version,
    ]
    assert found.passes[0].params == PASSES["simplify"].params().model_dump(mode="json")
    assert found.passes[1].params["per_channel"] is False
    assert found.passes[1].params["weight_type"] == "int8"


def test_a_planned_recipe_can_be_sent_again():
    first = planned({"pass": "simplify"}, {"pass": "to-fp16"})
    sent = Recipe.model_validate_json(first.model_dump_json())

    assert sent == first
    assert plan(sent, model(), TARGET, {}, None, Options()) == first
    assert first.model_dump(mode="json").keys() == {"schema", "passes", "notes"}
    assert first.model_dump(mode="json")["passes"][0].keys() == {"pass", "params", "inputs", "version"}


def test_an_unknown_pass_gets_close_names():
    with pytest.raises(UnknownPass) as refusal:
        planned({"pass": "simplify"}, {"pass": "quantise-static"})
    assert refusal.value.param == "recipe.passes[1].pass"
    assert "quantize-static" in refusal.value.hint


def test_a_wrong_parameter_is_named_by_its_path():
    with pytest.raises(InvalidParams) as refusal:
        planned(
            {"pass": "quantize-static", "params": {"method": "guess"}, "inputs": {"calibration": "dat_1"}},
            data=dataset(),
        )
    assert refusal.value.param == "recipe.passes[0].params.method"
    assert "minmax" in refusal.value.detail
    assert refusal.value.errors[0]["param"] == "recipe.passes[0].params.method"

    with pytest.raises(InvalidParams) as refusal:
        planned({"pass": "to-fp16", "params": {"keep_io_type": False}})
    assert refusal.value.param == "recipe.passes[0].params.keep_io_type"
    assert "keep_io_types" in refusal.value.hint

    with pytest.raises(InvalidParams) as refusal:
        planned({"pass": "to-fp16", "params": {"blocked_nodes": ["a", 3]}})
    assert refusal.value.param == "recipe.passes[0].params.blocked_nodes[1]"


def test_every_wrong_parameter_is_listed():
    with pytest.raises(InvalidParams) as refusal:
        planned({"pass": "quantize-weights", "params": {"bits": 5, "block_size": 7}})
    assert {error["param"] for error in refusal.value.errors} == {
        "recipe.passes[0].params.bits",
        "recipe.passes[0].params.block_size",
    }


def test_unknown_fields_are_refused():
    for text in (
        {"passes": [], "color": "red"},
        {"passes": [{"pass": "simplify", "when": "now"}]},
        {"schema": 2, "passes": []},
    ):
        with pytest.raises(ValidationError):
            Recipe.model_validate(text)


def test_another_version_than_the_current_is_refused():
    with pytest.raises(IncompatibleRecipe) as refusal:
        planned({"pass": "simplify", "version": PASSES["simplify"].version + 1})
    assert refusal.value.param == "recipe.passes[0].version"
    assert "remove `version`" in refusal.value.hint


def test_the_chain_of_precisions_names_who_broke_it():
    with pytest.raises(IncompatibleRecipe) as refusal:
        planned({"pass": "quantize-dynamic"}, {"pass": "simplify"}, {"pass": "to-fp16"})
    assert refusal.value.param == "recipe.passes[2].pass"
    assert "after quantize-dynamic" in refusal.value.detail

    planned({"pass": "to-fp16"}, {"pass": "quantize-weights"}, {"pass": "simplify"})
    with pytest.raises(IncompatibleRecipe) as refusal:
        planned({"pass": "quantize-dynamic"}, facts=model(precision="int8"))
    assert "it is int8" in refusal.value.detail


def test_formats_are_held_against_passes_and_runtime():
    unknown = model(format="caffe")
    with pytest.raises(IncompatibleRecipe, match="cannot become") as refusal:
        planned({"pass": "simplify"}, facts=unknown)
    assert refusal.value.param == "recipe.passes[0].pass"
    with pytest.raises(IncompatibleRecipe) as refusal:
        planned(facts=unknown)
    assert refusal.value.param == "targets[0].runtime"


def test_a_model_that_becomes_what_is_taken_is_taken():
    for name, spec in FORMATS.items():
        if "onnx" in spec.converts_to:
            assert planned({"pass": "simplify"}, facts=model(format=name)).passes


def test_a_conversion_that_failed_when_it_was_tried_speaks_against_the_target():
    problem = {"code": "unsupported_operator", "detail": "no ONNX form of aten::odd", "hint": "leave it out"}
    facts = model(format="keras", conversions={"onnx": {"problem": problem}})
    with pytest.raises(IncompatibleRecipe, match="aten::odd") as refusal:
        planned(facts=facts)
    assert (refusal.value.hint, refusal.value.errors) == ("leave it out", [problem])
    assert planned(facts=model(format="keras", conversions={"onnx": {"checked": True}}))


def test_a_quantized_model_becomes_no_other_format(monkeypatch):
    """Its integers would come out as floating point that pretends, with nothing gained."""
    program = dataclasses.replace(module.RUNTIMES["onnxruntime-cpu"], formats=frozenset({"torch-export"}))
    monkeypatch.setitem(module.RUNTIMES, "onnxruntime-cpu", program)
    assert planned({"pass": "simplify"})
    with pytest.raises(IncompatibleRecipe, match="int8-dynamic model in onnx") as refusal:
        planned({"pass": "quantize-dynamic"})
    assert refusal.value.param == "targets[0].runtime"


def test_a_pass_that_cannot_take_large_models_is_refused_and_others_named(monkeypatch):
    small = dataclasses.replace(PASSES["to-fp16"], over_2gb=False)
    monkeypatch.setitem(module.PASSES, "to-fp16", small)
    large = model(size_bytes=PROTOBUF_LIMIT_BYTES + 1)

    with pytest.raises(IncompatibleRecipe) as refusal:
        planned({"pass": "simplify"}, {"pass": "to-fp16"}, facts=large)
    assert refusal.value.param == "recipe.passes[1].pass"
    assert "simplify" in refusal.value.hint
    planned({"pass": "to-fp16"}, facts=model(size_bytes=PROTOBUF_LIMIT_BYTES))


def test_calibration_data_must_be_named_or_synthetic_data_allowed():
    with pytest.raises(InvalidParams) as refusal:
        planned({"pass": "quantize-static"}, data=dataset())
    assert refusal.value.param == "recipe.passes[0].inputs.calibration"
    assert "allow_synthetic" in refusal.value.hint

    assert planned({"pass": "quantize-static"}, allow_synthetic=True).passes[0].inputs == {}
    found = planned({"pass": "quantize-static", "inputs": {"calibration": "dat_1"}}, data=dataset())
    assert found.passes[0].inputs == {"calibration": "dat_1"}


def test_inputs_that_a_pass_does_not_read_and_unknown_datasets_are_refused():
    with pytest.raises(InvalidParams) as refusal:
        planned({"pass": "simplify", "inputs": {"calibration": "dat_1"}}, data=dataset())
    assert refusal.value.param == "recipe.passes[0].inputs.calibration"
    with pytest.raises(InvalidParams) as refusal:
        planned({"pass": "quantize-static", "inputs": {"calibration": "dat_2"}}, data=dataset())
    assert refusal.value.param == "recipe.passes[0].inputs.calibration"
    assert "dat_2" in refusal.value.detail


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (dataset(name="pictures"), "pictures"),
        (dataset(dtype="str8"), "str8"),
        (dataset(dtype="int32"), "int32"),
        (dataset(shape=(3, 8, 8)), "[3, 8, 8]"),
        (dataset(shape=(8,)), "ranks differ"),
    ],
)
def test_data_that_does_not_fit_is_refused(data, says):
    step = {"pass": "quantize-static", "inputs": {"calibration": "dat_1"}}
    with pytest.raises(SignatureMismatch) as refusal:
        planned(step, data=data)
    assert says in refusal.value.detail
    assert refusal.value.param == "recipe.passes[0].inputs.calibration"
    with pytest.raises(SignatureMismatch) as refusal:
        planned(data=data, evaluation=Evaluation("dat_1"))
    assert refusal.value.param == "evaluation.dataset"


@pytest.mark.parametrize(
    ("wanted", "data"),
    [
        (("float32", ["batch", 1, 8, 8]), dataset(dtype="float64")),
        (("float32", [4, 1, None, 8]), dataset(dtype="uint8")),
        (("float32", [1, 8, 8]), dataset()),
        (("int64", ["batch", 1, 8, 8]), dataset(dtype="int32")),
        (("string", ["batch", 1, 8, 8]), dataset(dtype="str32")),
    ],
)
def test_data_that_workers_can_feed_is_taken(wanted, data):
    facts = model(inputs=({"name": "images", "dtype": wanted[0], "shape": wanted[1]},))

    planned(facts=facts, data=data, evaluation=Evaluation("dat_1"))


def test_dtypes_that_are_taken_are_those_that_workers_cast():
    np = pytest.importorskip("numpy")
    from workers.feeds import _castable

    names = [
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
    ]
    for given in names:
        for wanted in names:
            assert recipe_data.castable(given, wanted) == _castable(np.dtype(given), np.dtype(wanted)), (
                given,
                wanted,
            )


def test_targets_are_filled_in_and_refused_with_their_path():
    assert validate_target(TARGET).params["threads"] == 0
    with pytest.raises(InvalidParams) as refusal:
        validate_target(Target(runtime="onnxruntime-gpu"), "targets[1]")
    assert refusal.value.param == "targets[1].runtime"
    assert "onnxruntime-cpu" in refusal.value.hint
    with pytest.raises(InvalidParams) as refusal:
        validate_target(Target(runtime="onnxruntime-cpu", params={"threads": -1}))
    assert refusal.value.param == "targets[0].params.threads"


def preset(
    operators: dict[str, int], hint: str | None = None, precision: str = "fp32", **options: Any
) -> Recipe:
    facts = model(operators=operators, precision=precision)
    return plan(None, facts, TARGET, dataset(), None, Options(**options), calibration_hint=hint)


def names(found: Recipe) -> list[str]:
    return [step.name for step in found.passes]


def test_convolutional_networks_are_never_quantized_dynamically():
    assert names(preset({"Conv": 20, "Gemm": 1}, "dat_1")) == ["simplify", "quantize-static"]
    assert preset({"Conv": 20}, "dat_1").passes[1].inputs == {"calibration": "dat_1"}
    assert names(preset({"Conv": 20, "MatMul": 30}, allow_synthetic=True)) == ["simplify", "quantize-static"]
    bare = preset({"Conv": 20, "MatMul": 30})
    assert names(bare) == ["simplify"]
    assert any("allow_synthetic" in note for note in bare.notes)


def test_matrix_products_and_lstms_are_quantized_dynamically_without_data():
    assert names(preset({"MatMul": 24, "Softmax": 4})) == ["simplify", "quantize-dynamic"]
    assert names(preset({"LSTM": 2, "Gemm": 1}, "dat_1")) == ["simplify", "quantize-dynamic"]
    assert names(preset({"GRU": 2})) == ["simplify"]
    assert names(preset({"Add": 2})) == ["simplify"]


def test_convolutions_that_static_quantization_cannot_reach_are_left():
    facts = model(operators={"Conv": 12, "If": 1, "LSTM": 2}, control_flow={"Conv": 12, "LSTM": 2})
    found = plan(None, facts, TARGET, dataset(), None, Options(), calibration_hint="dat_1")
    assert names(found) == ["simplify"]
    assert "control flow" in found.notes[0]
    partly = dataclasses.replace(facts, control_flow={"Conv": 2})
    assert names(plan(None, partly, TARGET, dataset(), None, Options(), calibration_hint="dat_1")) == [
        "simplify",
        "quantize-static",
    ]


def test_what_is_not_fp32_is_left_in_its_precision():
    for precision in ("fp16", "int8", "mixed"):
        found = preset({"Conv": 3}, "dat_1", precision)
        assert names(found) == ["simplify"]
        assert precision in found.notes[0]


def test_step_keys_depend_on_everything_but_the_order_of_keys():
    assert step_key({"a": 1, "b": {"c": [1, 2]}}) == step_key({"b": {"c": [1, 2]}, "a": 1})
    assert step_key({"a": 1}) != step_key({"a": 2})
    assert step_key({"a": [1, 2]}) != step_key({"a": [2, 1]})
    assert step_key({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    with pytest.raises(ValueError, match="JSON"):
        step_key({"a": float("nan")})


def test_operators_of_one_runtime_alone_stay_with_it(monkeypatch: pytest.MonkeyPatch):
    fused = {"pass": "fuse-transformer"}
    assert [step.name for step in planned(fused, {"pass": "quantize-dynamic"}).passes] == [
        "fuse-transformer", "quantize-dynamic",
    ]  # fmt: skip

    plain = dataclasses.replace(module.RUNTIMES["onnxruntime-cpu"], name="standard-cpu", dialects=frozenset())
    monkeypatch.setitem(module.RUNTIMES, "standard-cpu", plain)
    with pytest.raises(IncompatibleRecipe, match=r"after fuse-transformer .* onnxruntime alone") as refusal:
        plan(recipe(fused), model(), Target(runtime="standard-cpu"), {}, None, Options())
    assert refusal.value.param == "targets[0].runtime"
    assert "onnxruntime-cpu" in str(refusal.value.hint)
    assert plan(recipe(), model(), Target(runtime="standard-cpu"), {}, None, Options()).passes == []

    strict = dataclasses.replace(PASSES["quantize-dynamic"], dialects=frozenset())
    monkeypatch.setitem(module.PASSES, "quantize-dynamic", strict)
    with pytest.raises(IncompatibleRecipe, match="which quantize-dynamic does not know") as refusal:
        planned(fused, {"pass": "quantize-dynamic"})
    assert refusal.value.param == "recipe.passes[1].pass"
