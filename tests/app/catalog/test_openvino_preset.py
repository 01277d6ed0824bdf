"""What a job for OpenVINO does that names no passes."""

import pytest

from app.catalog.presets import openvino_preset
from app.catalog.recipe import DatasetFacts, Recipe, Target, plan
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import ModelFacts, PresetChoice, PresetContext
from app.errors import IncompatibleRecipe

DATA = "dat_1"


def facts(
    operators: dict[str, int], precision: str = "fp32", inside: dict[str, int] | None = None
) -> ModelFacts:
    return ModelFacts("onnx", precision, operators, 1000, (), (), control_flow=inside or {})


def choice(model: ModelFacts, calibration: str | None = DATA, *, synthetic: bool = False) -> PresetChoice:
    return openvino_preset(PresetContext(model, calibration, synthetic))


def names(found: PresetChoice) -> list[str]:
    return [step["pass"] for step in found.passes]


def test_networks_of_convolutions_and_products_are_quantized_with_data():
    for operators in ({"Conv": 20, "Gemm": 1}, {"MatMul": 24, "Softmax": 4}, {"ConvTranspose": 2}):
        found = choice(facts(operators))
        assert names(found) == ["simplify", "quantize-openvino"]
        assert found.passes[1]["inputs"] == {"calibration": DATA}
        assert found.reasons


def test_attention_is_quantized_as_a_transformer():
    transformer = {"model_type": "transformer"}
    assert choice(facts({"MatMul": 24, "Softmax": 4})).passes[1]["params"] == transformer
    assert choice(facts({"Conv": 1, "MatMul": 48, "Softmax": 12})).passes[1]["params"] == transformer
    assert "params" not in choice(facts({"Conv": 20, "Gemm": 1, "Softmax": 1})).passes[1]
    assert "params" not in choice(facts({"Gemm": 3})).passes[1]


def test_without_data_nothing_is_quantized_and_bf16_is_named():
    found = choice(facts({"Conv": 20}), None)
    assert names(found) == ["simplify"]
    assert any("allow_synthetic" in reason for reason in found.reasons)
    assert any("inference_precision=bf16" in reason for reason in found.reasons)

    found = choice(facts({"Conv": 20}), None, synthetic=True)
    assert names(found) == ["simplify", "quantize-openvino"]
    assert "inputs" not in found.passes[1]
    assert any("random" in reason for reason in found.reasons)


def test_what_has_no_8_bit_form_is_simplified():
    assert names(choice(facts({"GRU": 2}))) == ["simplify"]
    assert names(choice(facts({"Conv": 12, "If": 1}, inside={"Conv": 12}))) == ["simplify"]
    for precision in ("fp16", "int8", "mixed"):
        found = choice(facts({"Conv": 3}, precision))
        assert names(found) == ["simplify"]
        assert precision in found.reasons[0]


def test_the_baseline_is_fp32_whatever_the_target_computes_in():
    spec = RUNTIMES["openvino-cpu"]
    given = spec.params.model_validate({"threads": 2, "inference_precision": "bf16"})
    assert spec.baseline_params(given).model_dump() == {**given.model_dump(), "inference_precision": "f32"}


def test_an_ir_is_for_openvino_alone():
    recipe = Recipe.model_validate(
        {"passes": [{"pass": "quantize-openvino", "inputs": {"calibration": DATA}}]}
    )
    data = {DATA: DatasetFacts(DATA, "0" * 64, 10, {}, None)}
    taken = plan(recipe, facts({"Conv": 1}), Target(runtime="openvino-cpu"), data, None, None)
    assert [step.name for step in taken.passes] == ["quantize-openvino"]
    with pytest.raises(IncompatibleRecipe) as refusal:
        plan(recipe, facts({"Conv": 1}), Target(runtime="onnxruntime-cpu"), data, None, None)
    assert "openvino" in refusal.value.detail
