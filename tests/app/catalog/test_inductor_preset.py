"""What a job for Inductor on CPUs does that names no passes."""

import pytest

from app.catalog.passes import PASSES
from app.catalog.presets import inductor_preset
from app.catalog.recipe import DatasetFacts, Target, plan
from app.catalog.spec import ModelFacts, PresetChoice, PresetContext

DATA = "dat_1"
IMAGES = ("images", "float32", ["batch", 3, 32, 32])
TOKENS = ("tokens", "int64", ["batch", "sequence"])
WAVES = ("waves", "float32", ["batch", 1, 16000])
STATIC = {"pass": "quantize-torch", "params": {"mode": "int8-static", "samples": 300}}
DYNAMIC = {"pass": "quantize-torch", "params": {"mode": "int8-dynamic"}}


def facts(
    operators: dict[str, int],
    takes: tuple[str, str, list] = IMAGES,
    precision: str = "fp32",
    inside: dict[str, int] | None = None,
) -> ModelFacts:
    entry = dict(zip(("name", "dtype", "shape"), takes, strict=True))
    return ModelFacts("torch-export", precision, operators, 1000, (entry,), (), control_flow=inside or {})


def choice(model: ModelFacts, calibration: str | None = DATA, *, synthetic: bool = False) -> PresetChoice:
    return inductor_preset(PresetContext(model, calibration, synthetic))


def test_convolutions_over_images_get_fixed_ranges_with_data():
    for operators in (
        {"Conv": 20, "Gemm": 1},
        {"Conv": 52, "Gemm": 1, "Softmax": 1},
        {"Conv": 3, "MatMul": 9},
    ):
        found = choice(facts(operators))
        assert found.passes == [{**STATIC, "inputs": {"calibration": DATA}}]
        assert str(operators["Conv"]) in found.reasons[0]


def test_without_data_convolutions_are_compiled_alone():
    found = choice(facts({"Conv": 20}), None)
    assert found.passes == []
    assert any("allow_synthetic" in reason for reason in found.reasons)

    found = choice(facts({"Conv": 20}), None, synthetic=True)
    assert found.passes == [STATIC]
    assert any("random" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    "model",
    [
        facts({"MatMul": 48, "Softmax": 6, "Gather": 3}, TOKENS),
        facts({"Gemm": 3}, TOKENS),
        facts({"Conv": 1, "MatMul": 72, "Softmax": 12}),
        facts({"Conv": 1, "MatMul": 24, "Attention": 12}),
    ],
    ids=["text", "mlp", "images", "fused"],
)
def test_products_get_ranges_from_data_or_on_the_fly(model: ModelFacts):
    assert choice(model).passes == [{**STATIC, "inputs": {"calibration": DATA}}]
    for synthetic in (False, True):  # generated tokens say nothing of the ranges of real ones
        found = choice(model, None, synthetic=synthetic)
        assert found.passes == [DYNAMIC]
        assert "need no data" in found.reasons[0]


def test_what_has_no_8_bit_kernel_is_compiled_alone():
    for model in (
        facts({"LSTM": 2, "Gemm": 1}, TOKENS),
        facts({"Conv": 6, "Relu": 6}, WAVES),
        facts({"Conv": 12, "If": 1}, inside={"Conv": 12}),
        facts({"Relu": 2}),
        facts({}),
    ):
        found = choice(model)
        assert found.passes == []
        assert "no 8-bit kernel" in found.reasons[0]
    for precision in ("fp16", "int8", "mixed"):
        found = choice(facts({"Conv": 3}, precision=precision))
        assert found.passes == []
        assert precision in found.reasons[0]


def test_a_job_follows_what_was_chosen():
    data = {
        DATA: DatasetFacts(DATA, "0" * 64, 10, {"images": {"dtype": "float32", "shape": [3, 32, 32]}}, None)
    }
    for operators, hint, mode, inputs in (
        ({"Conv": 5}, DATA, "int8-static", {"calibration": DATA}),
        ({"Gemm": 5}, DATA, "int8-static", {"calibration": DATA}),
        ({"Gemm": 5}, None, "int8-dynamic", {}),
    ):
        target = Target(runtime="torch-inductor-cpu")
        found = plan(None, facts(operators), target, data, None, Options(), calibration_hint=hint)
        (step,) = found.passes
        assert (step.name, step.version) == ("quantize-torch", PASSES["quantize-torch"].version)
        assert step.params["mode"] == mode
        assert step.inputs == inputs
        assert found.notes


class Options:
    allow_synthetic = False
