"""The pass `quantize-torch`: what it does to a program, and whether Inductor finds 8-bit kernels for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from app.catalog.passes import PASSES
from app.catalog.recipe import Recipe, Target, plan
from app.catalog.runtimes import RUNTIMES
from app.catalog.spec import ModelFacts
from app.errors import IncompatibleRecipe, InvalidDataset, InvalidParams, UnsupportedOperator
from tests.workers.engines.networks import ArraySamples, Network, answers
from workers import runtimes
from workers.context import Feeds
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.passes import quantize_torch
from workers.runtimes.base import Engine
from workers.runtimes.why import why
from workers.torch.facts import layers, weights
from workers.torch.inductor import QUANTIZED_DRAWS, hold
from workers.torch.program import Program, TorchModel, export, load_program, runner, save_program

NAME = "quantize-torch"
MODES = ["int8-static", "int8-dynamic", "weights-8bit"]
MAX_DROP = 0.02


def top1(logits: np.ndarray, network: Network) -> float:
    return float(np.mean(np.argmax(logits, axis=1) == network.labels))


def saved(module: torch.nn.Module, shape: list, folder: Path, outputs: list) -> ModelHandle:
    folder.mkdir(parents=True)
    inputs = ({"name": "x", "dtype": "float32", "shape": shape},)
    named = ({"name": "y", "dtype": "float32", "shape": outputs},)
    save_program(export(TorchModel(module.eval(), inputs, named)), inputs, named, folder / "model.pt2")
    return ModelHandle(folder, "model.pt2", "torch-export", tree_digest(folder))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_a_trained_network_keeps_its_accuracy(
    name: str, mode: str, request, apply: Callable, signal: Callable
):
    network: Network = request.getfixturevalue(name)
    feeds = {"images": network.images}
    model, context = apply(NAME, network.program, network.train, mode=mode)

    before, after = answers(network.program, feeds)["logits"], answers(model, feeds)["logits"]
    assert signal(before, after) > 20
    assert not np.array_equal(before, after)
    assert top1(after, network) >= top1(before, network) - MAX_DROP
    counts = {
        ("cnn", "int8-static"): {"int8": 3},  # one convolution has a single input channel
        ("mlp", "int8-static"): {"int8": 3},
        ("cnn", "int8-dynamic"): {"int8-dynamic": 1},
        ("mlp", "int8-dynamic"): {"int8-dynamic": 3},
        ("cnn", "weights-8bit"): {"weights-8bit": 1},
        ("mlp", "weights-8bit"): {"weights-8bit": 3},
    }
    assert context.facts["quantized"] == counts[name, mode]
    left = {} if name == "mlp" else {"conv2d": 1 if mode == "int8-static" else 3}
    assert context.facts["left_out"]["operators"] == left


@pytest.mark.parametrize("mode", MODES)
def test_the_weights_that_were_quantized_are_gone(mode: str, mlp: Network, apply: Callable):
    model, _ = apply(NAME, mlp.program, mlp.train, mode=mode)
    before, after = load_program(mlp.program.path).program, load_program(model.path).program

    def floats(program) -> int:
        values = [*program.state_dict.values(), *program.constants.values()]
        return sum(value.numel() for value in values if value.dtype == torch.float32)

    assert floats(after) < floats(before) / 5
    assert weights(after)["weights"] >= weights(before)["weights"]


def test_calibration_reads_no_more_than_it_was_told_to(cnn: Network, apply: Callable):
    _, few = apply(NAME, cnn.program, cnn.train, samples=5)
    _, all_of_them = apply(NAME, cnn.program, cnn.train)

    assert few.facts["calibration"] == {"samples": 5, "synthetic": False}
    assert all_of_them.facts["calibration"]["samples"] == cnn.train.count


def test_ranges_follow_the_data(mlp: Network, apply: Callable):
    wide = ArraySamples({"images": mlp.images * 50})
    exact, _ = apply(NAME, mlp.program, ArraySamples({"images": mlp.images}))
    coarse, _ = apply(NAME, mlp.program, wide)
    feeds = {"images": mlp.images}
    expected = answers(mlp.program, feeds)["logits"]
    errors = [float(np.abs(answers(model, feeds)["logits"] - expected).mean()) for model in (exact, coarse)]

    assert errors[1] > 3 * errors[0]


def test_data_that_is_not_finite_is_refused(cnn: Network, apply: Callable):
    images = cnn.images[:20].copy()
    images[3] = np.nan

    with pytest.raises(InvalidDataset) as refusal:
        apply(NAME, cnn.program, ArraySamples({"images": images}))
    assert "NaN" in refusal.value.detail
    assert refusal.value.stage == NAME


@pytest.mark.parametrize("mode", MODES)
def test_a_model_with_nothing_to_quantize_is_refused(mode: str, tmp_path: Path, apply: Callable):
    model = saved(torch.nn.Softmax(dim=1), ["batch", 4], tmp_path / "model", ["batch", 4])

    with pytest.raises(IncompatibleRecipe) as refusal:
        apply(NAME, model, ArraySamples({"x": np.ones((4, 4), np.float32)}), mode=mode)
    assert mode in refusal.value.detail
    assert refusal.value.hint


def test_two_free_dimensions_stay_free(tmp_path: Path, apply: Callable):
    layers_ = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
    model = saved(layers_, ["batch", "length", 8], tmp_path / "model", ["batch", "length", 4])
    quantized, _ = apply(NAME, model, mode="int8-dynamic")

    assert load_program(quantized.path).inputs == load_program(model.path).inputs
    for shape in ((1, 5, 8), (3, 2, 8), (2, 9, 8)):
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        assert answers(quantized, {"x": x})["y"].shape == (*shape[:2], 4)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[ModelHandle], Engine]:
    """`compiled(model)`: its engine for one thread."""

    def build(model: ModelHandle, **params) -> Engine:
        out = tmp_path_factory.mktemp("engine")
        runtime = runtimes.registry.alone("torch-inductor-cpu")
        return runtime.build(model, RUNTIMES["torch-inductor-cpu"].params(threads=1, **params), out)

    return build


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode", "compute"),
    [
        ("cnn", "int8-static", {"fp32": 1, "int8": 3}),
        ("mlp", "int8-dynamic", {"int8-dynamic": 3}),
    ],
)
def test_inductor_finds_8_bit_kernels(name: str, mode: str, compute: dict, request, apply, compiled, signal):
    network: Network = request.getfixturevalue(name)
    model, _ = apply(NAME, network.program, network.train, mode=mode)
    engine = compiled(model)
    loaded = runtimes.registry.alone("torch-inductor-cpu").load(
        engine, RUNTIMES["torch-inductor-cpu"].params()
    )

    assert engine.facts["compute"] == compute
    assert engine.facts["unfused"]["count"] == 0
    got = loaded.run({"images": network.images})["logits"]
    assert signal(answers(network.program, {"images": network.images})["logits"], got) > 20
    assert (
        top1(got, network)
        >= top1(answers(network.program, {"images": network.images})["logits"], network) - MAX_DROP
    )


def test_without_freezing_there_are_none_and_it_says_why(mlp: Network, apply: Callable, compiled: Callable):
    model, _ = apply(NAME, mlp.program, mlp.train, mode="int8-static")
    engine = compiled(model, freezing=False)

    assert engine.facts["compute"] == {"fp32": 3}
    assert engine.facts["unfused"]["count"] == 3
    sentences = why(engine.facts, engine.facts, {"speedup": {"verdict": "slower"}})
    assert any(
        "3 of 3 quantized layers found no 8-bit kernel" in one and "freezing" in one for one in sentences
    )


def test_eager_says_that_it_has_no_8_bit_kernels(mlp: Network, apply: Callable, tmp_path: Path):
    model, _ = apply(NAME, mlp.program, mlp.train, mode="int8-static")
    engine = runtimes.registry.alone("torch-eager").build(model, RUNTIMES["torch-eager"].params(), tmp_path)

    assert engine.facts["unfused"]["count"] == 3
    assert [layer.quantized for layer in layers(load_program(model.path).program)] == ["int8"] * 3
    assert any("3 quantized layers compute in floating point" in one for one in engine.facts["explained"])


class Leave:
    """Leave to calibrate with generated data, or not."""

    def __init__(self, allow_synthetic: bool):
        self.allow_synthetic = allow_synthetic


@pytest.mark.parametrize(
    ("mode", "leaves"), list(zip(MODES, ("int8", "int8-dynamic", "weights-8bit"), strict=True))
)
def test_precision_and_data_depend_on_the_mode(mode: str, leaves: str):
    facts = ModelFacts("torch-export", "fp32", {}, 1000, (), ())
    recipe = Recipe.model_validate({"passes": [{"pass": NAME, "params": {"mode": mode}}]})
    target = Target(runtime="torch-inductor-cpu")

    if mode == "int8-static":
        with pytest.raises(InvalidParams) as refusal:
            plan(recipe, facts, target, {}, None, Leave(False))
        assert refusal.value.param == "recipe.passes[0].inputs.calibration"
    planned = plan(recipe, facts, target, {}, None, Leave(mode == "int8-static"))
    assert PASSES[NAME].produced(planned.passes[0].params) == leaves
    twice = Recipe.model_validate({"passes": [*recipe.model_dump()["passes"]] * 2})
    with pytest.raises(IncompatibleRecipe) as refused:
        plan(twice, facts, target, {}, None, Leave(True))
    assert f"after {NAME} it is {leaves}" in refused.value.detail


def test_data_that_a_mode_does_not_read_is_refused():
    facts = ModelFacts("torch-export", "fp32", {}, 1000, (), ())
    step = {"pass": NAME, "params": {"mode": "weights-8bit"}, "inputs": {"calibration": "dat_1"}}

    with pytest.raises(InvalidParams) as refusal:
        plan(
            Recipe.model_validate({"passes": [step]}),
            facts,
            Target(runtime="torch-eager"),
            {},
            None,
            Leave(True),
        )
    assert refusal.value.detail == "quantize-torch reads no calibration data"


def test_an_engine_that_computes_something_else_is_not_given_away(
    cnn: Network, apply: Callable, compiled: Callable, monkeypatch: pytest.MonkeyPatch
):
    """Inductor reads the 8-bit result of a convolution of one channel in the wrong order: without the pass's caution."""
    monkeypatch.setattr(quantize_torch, "_sparing", lambda quantizer: quantizer)
    model, context = apply(NAME, cnn.program, cnn.train, mode="int8-static")
    assert context.facts["quantized"] == {"int8": 4}

    with pytest.raises(UnsupportedOperator) as refusal:
        compiled(model)
    assert "gives other values of 'logits'" in refusal.value.detail
    assert refusal.value.stage == "building"


class Missing:
    """The program itself as an engine, which gives the negative of its outputs on some of the inputs that it is given."""

    def __init__(self, program: Program, misses: int):
        self.inputs, self.outputs = list(program.inputs), list(program.outputs)
        self._run = runner(program)
        self._left = misses

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        self._left -= 1
        sign = -1 if self._left >= 0 else 1
        return {name: sign * value for name, value in self._run(feeds).items()}


def test_in_8_bits_an_engine_may_miss_some_inputs_but_not_all(cnn: Network, apply: Callable):
    model, _ = apply(NAME, cnn.program, cnn.train, mode="int8-static")
    quantized, plain = load_program(model.path), load_program(cnn.program.path)

    hold(quantized, Missing(quantized, QUANTIZED_DRAWS - 1), {}, "hint")
    hold(plain, Missing(plain, 0), {}, "hint")
    for program, misses in ((quantized, QUANTIZED_DRAWS), (plain, 1)):
        with pytest.raises(UnsupportedOperator, match="other values of 'logits'"):
            hold(program, Missing(program, misses), {}, "hint")
