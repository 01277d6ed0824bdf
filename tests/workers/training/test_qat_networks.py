"""The pass `qat` on networks of other kinds than those that it is for, and on data that do not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from app.catalog.pass_params.qat import QatParams
from app.errors import (
    BurnishError,
    IncompatibleRecipe,
    InvalidDataset,
    InvalidParams,
    SignatureMismatch,
    UnsupportedOperator,
)
from tests.workers.engines.networks import ArraySamples
from tests.workers.training import networks
from tests.workers.training.arrays import IMAGES, LOGITS, digits
from tests.workers.training.eight_bits import NETWORKS
from tests.workers.training.qat_runs import answers, engine, onnx_of, operators, program_of, static, trained


class Flat(nn.Module):
    """Images to logits by one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1))


class Half(Flat):
    """Its first layer computes in another type."""

    def __init__(self, dtype: torch.dtype = torch.float16):
        super().__init__()
        self.dtype, self.first = dtype, nn.Linear(64, 64).to(dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(self.first(images.flatten(1).to(self.dtype)).float())


class Wave(nn.Module):
    """Weights, and no product that 8 bits are for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.sin(images.sum((1, 2, 3))[:, None] * self.weight)


class Factors(Flat):
    """An operator that ONNX has not."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.linalg.qr(images)[0])


class Recurrent(nn.Module):
    """A recurrent layer and a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.rows(images.reshape(-1, 8, 8))[0][:, -1])


class Sized(nn.Module):
    """Images of any size and three numbers beside each."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.seen, self.told = nn.Linear(4, 10), nn.Linear(3, 10)

    def forward(self, images: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
        return self.seen(self.norm(self.look(images)).relu().mean((2, 3))) + self.told(beside)


SIZED = (
    {**IMAGES, "shape": ["batch", 1, "height", "width"]},
    {"name": "beside", "dtype": "float32", "shape": ["batch", 3]},
)


def data(count: int = 120, **more: np.ndarray) -> ArraySamples:
    images, labels = digits(count)
    return ArraySamples({"images": images, **more}, labels)


def beside(count: int = 120, width: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def test_a_fixed_batch_stays_fixed(tmp_path: Path):
    fixed = [{**one, "shape": [1, *one["shape"][1:]]} for one in (IMAGES, LOGITS)]
    model = program_of(seeded(NETWORKS["layers"]), tmp_path / "program", fixed[:1], fixed[1:])
    ours, _ = trained(model, tmp_path / "qat", data())

    (given,) = ours.load_onnx().graph.input
    assert [dim.dim_value for dim in given.type.tensor_type.shape.dim] == [1, 1, 8, 8]
    assert answers(ours, {"images": digits(1)[0]}).shape == (1, 10)


def test_several_inputs_and_free_dimensions_stay_what_they_were(tmp_path: Path):
    model = program_of(seeded(Sized), tmp_path / "program", SIZED)
    ours, context = trained(model, tmp_path / "qat", data(beside=beside()))

    assert context.facts["quantized"] == {"Conv": 1, "Gemm": 2}
    assert [one.name for one in ours.load_onnx().graph.input] == ["images", "beside"]
    for count, side in ((1, 8), (5, 13)):
        feeds = {"images": np.ones((count, 1, side, side), np.float32), "beside": beside(count)}
        assert answers(ours, feeds).shape == (count, 10)


def test_a_recurrent_layer_stays_as_it_is_and_is_named(tmp_path: Path):
    model = program_of(seeded(Recurrent), tmp_path / "program")
    ours, context = trained(model, tmp_path / "qat", data(60))

    assert operators(ours)["LSTM"] == 1
    assert context.facts["quantized"] == {"Gemm": 1}
    assert any("1,056 weights stay as they are" in text for text in context.warnings)


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        pytest.param("onnxruntime", torch.float16, id="fp16"),
        pytest.param("onnxruntime", torch.float64, id="fp64", marks=pytest.mark.slow),
        pytest.param("tensorrt", torch.float16, id="fp16-for-tensorrt", marks=pytest.mark.slow),
    ],
)
def test_layers_of_other_types_stay_in_them_and_are_named(form: str, dtype: torch.dtype, tmp_path: Path):
    model = program_of(seeded(lambda: Half(dtype)), tmp_path / "program")
    ours, context = trained(model, tmp_path / "qat", data(60), form=form)
    theirs = static(onnx_of(model, tmp_path / "onnx"), data(60), tmp_path / "static", form=form)

    assert operators(ours) == operators(theirs)
    assert context.facts["quantized"] == {"Gemm": 1}
    (left,) = context.facts["left_out"]
    assert (left["operator"], left["count"]) == ("Gemm", 1)
    assert np.isfinite(answers(ours, {"images": digits(4)[0]})).all()


@pytest.mark.slow
def test_a_transformer_is_as_accurate_as_by_quantize_static_and_fuses_alike(tmp_path: Path):
    """The scores of attention, too, are products of 8 bits; normalizations and GELU are not."""
    held = networks.read_digits()
    tokens = ({"name": "tokens", "dtype": "int64", "shape": ["batch", networks.PLACES]},)
    model = program_of(networks.trained("reader"), tmp_path / "program", tokens)
    plain = onnx_of(model, tmp_path / "onnx")
    known = ArraySamples(dict(held.train.inputs), held.train.labels)
    quantized = static(plain, known, tmp_path / "static")
    ours, context = trained(model, tmp_path / "qat", known, epochs=2, learning_rate=1e-3)

    def points(one: Any) -> float:
        found = answers(one, dict(held.held.inputs)).argmax(1) == held.held.labels
        return float(100 * found.mean())

    assert points(plain) > 90
    assert points(ours) >= points(quantized) - 0.5
    assert points(ours) >= points(plain) - 1
    assert operators(ours) == operators(quantized)
    facts = [
        engine("onnxruntime-cpu", one, tmp_path / str(number), threads=1).facts
        for number, one in enumerate((quantized, ours))
    ]
    assert facts[0]["operators"] == facts[1]["operators"]
    assert sum(context.facts["quantized"].values()) == facts[1]["compute"]["int8"]


Case = tuple[Callable[[], nn.Module], dict[str, Any], type[BurnishError], str]
NETWORKS_REFUSED: dict[str, Case] = {
    "nothing of these types": (Flat, {"operators": ["Resize"]}, IncompatibleRecipe, "no operator to quantize"),
    "nothing but what is excluded": (
        Flat, {"excluded_operators": ["Gemm"]}, IncompatibleRecipe, "1 Gemm (excluded by operator type)"
    ),
    "no products": (Wave, {}, IncompatibleRecipe, "no convolution or matrix product"),
    "no products for TensorRT": (Wave, {"form": "tensorrt"}, IncompatibleRecipe, "no operator to quantize"),
    "no such node": (Flat, {"excluded_nodes": ["nothing"]}, InvalidParams, "'nothing'"),
    "not in ONNX": (Factors, {}, UnsupportedOperator, "linalg_qr.default has no form in ONNX"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(NETWORKS_REFUSED))
def test_a_network_that_cannot_be_quantized_is_told_of_before_it_trains(case: str, tmp_path: Path):
    make, params, kind, text = NETWORKS_REFUSED[case]
    with pytest.raises(kind) as refusal:
        trained(program_of(seeded(make), tmp_path / "program"), tmp_path / "qat", data(), **params)
    assert text in refusal.value.detail
    assert refusal.value.hint


def spoilt(samples: ArraySamples, index: int, value: float) -> ArraySamples:
    (images, labels) = next((feeds["images"].copy(), labels) for feeds, labels in samples.batches(10_000))
    images[index] = value
    return ArraySamples({"images": images}, labels)


def mislabelled(index: int, label: int) -> ArraySamples:
    images, labels = digits(120)
    return ArraySamples({"images": images}, np.where(np.arange(len(labels)) == index, label, labels))


DATA: dict[str, tuple[Callable[[], ArraySamples], ArraySamples | None, type[BurnishError], str]] = {
    "label out of range": (lambda: mislabelled(7, 99), None, InvalidDataset, "sample 7"),
    "infinity": (lambda: spoilt(data(), 3, np.inf), None, InvalidDataset, "calibration sample 3"),
    "NaN, but not in calibration": (lambda: spoilt(data(), 5, np.nan), data(60), InvalidDataset, "sample 5"),
    "no calibration samples": (data, ArraySamples({"images": digits(1)[0][:0]}), InvalidDataset, "no samples"),
    "calibration of another name": (data, ArraySamples({"rows": beside()}), SignatureMismatch, "input 'images'"),
    "calibration of another shape": (
        data, ArraySamples({"images": np.ones((4, 1, 9, 8), np.float32)}), SignatureMismatch, "in the dataset it is 9"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(DATA))
def test_data_that_do_not_fit_are_named(case: str, tmp_path: Path):
    make, calibration, kind, text = DATA[case]
    model = program_of(seeded(Flat), tmp_path / "program")
    with pytest.raises(kind) as refusal:
        trained(model, tmp_path / "qat", make(), calibration=calibration)
    assert text in refusal.value.detail


def test_half_precision_is_for_tensorrt_alone():
    with pytest.raises(ValidationError, match="rest is fp32 unless form is tensorrt"):
        QatParams(rest="fp16")
