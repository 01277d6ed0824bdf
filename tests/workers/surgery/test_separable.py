"""Convolutions as depthwise and pointwise ones: the factors, and which layers the pass takes."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app.errors import IncompatibleRecipe, InvalidParams
from tests.workers.surgery.trials import Trial, trial
from workers.surgery.counting import layers, totals
from workers.surgery.separable import Mixing, factors
from workers.torch.program import load_program

IMAGES = ({"name": "images", "dtype": "float32", "shape": ["batch", 3, 12, 12]},)
LOGITS = ({"name": "logits", "dtype": "float32", "shape": ["batch", 5]},)
CASES = [
    {"stride": stride, "dilation": dilation, "groups": groups, "bias": bias, "padding_mode": mode, "padding": padding}
    for stride, dilation, groups, bias, (mode, padding) in product(
        (1, 2), (1, 2), (1, 2), (True, False), (("zeros", 1), ("zeros", "valid"), ("reflect", 2))
    )
]  # fmt: skip


def vgg() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(16, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(),
        nn.Conv2d(16, 24, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


@pytest.fixture
def cnn(tmp_path: Path) -> Trial:
    return trial(tmp_path, "depthwise-separable", vgg(), IMAGES, LOGITS)


@pytest.mark.parametrize("given", CASES, ids=lambda given: "-".join(map(str, given.values())))
def test_all_singular_vectors_give_the_layer_itself(given: dict[str, Any]):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, (3, 2), **given)
    values = torch.randn(2, 4, 9, 8)
    made = factors(layer, 64)

    assert made.error == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(made.pointwise(made.depthwise(values)), layer(values), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv3d])
def test_other_numbers_of_axes(kind: type[nn.Module]):
    torch.manual_seed(0)
    axes = 1 if kind is nn.Conv1d else 3
    layer = kind(3, 4, 3, padding=1)
    values = torch.randn(2, 3, *[5] * axes)
    made = factors(layer, 64)

    torch.testing.assert_close(made.pointwise(made.depthwise(values)), layer(values), atol=1e-5, rtol=1e-4)


def test_a_separable_layer_is_found_again():
    torch.manual_seed(0)
    depthwise, pointwise = nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.Conv2d(6, 9, 1, bias=False)
    layer = nn.Conv2d(6, 9, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(pointwise.weight * depthwise.weight.transpose(0, 1))

    assert factors(layer, 1).error == pytest.approx(0, abs=1e-6)


def test_more_filters_are_nearer():
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 16, 3)
    errors = [factors(layer, multiplier).error for multiplier in (1, 2, 4, 9)]

    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3
    assert errors[-1] < 1e-6


@torch.no_grad()
def test_data_bring_it_nearer_to_what_the_layer_gives():
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 12, 3, padding=1)
    basis = torch.randn(2, 8)  # inputs that use two directions of eight
    values = torch.einsum("nrhw,rc->nchw", torch.randn(16, 2, 9, 9), basis)
    made = factors(layer, 1)
    wanted = layer(values)
    before = (made.pointwise(made.depthwise(values)) - wanted).square().mean()
    mixing = Mixing(layer, made)
    mixing(values, wanted)
    mixing.settle()
    after = (made.pointwise(made.depthwise(values)) - wanted).square().mean()

    assert after < 0.7 * before
    spread = (wanted - wanted.mean((0, 2, 3), keepdim=True)).square().mean()
    assert made.error == pytest.approx(float((after / spread).sqrt()), rel=1e-3)


@torch.no_grad()
def test_channels_that_data_do_not_show_stay_as_they_were():
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 12, 3, padding=1)
    values = torch.randn(8, 8, 9, 9)
    values[:, 5] = 0
    made = factors(layer, 1)
    before = made.pointwise.weight[:, 5].clone()
    mixing = Mixing(layer, made)
    mixing(values, layer(values))
    mixing.settle()

    torch.testing.assert_close(made.pointwise.weight[:, 5], before)


@torch.no_grad()
def test_outputs_that_never_change_have_no_error():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3)
    made = factors(layer, 1)
    mixing = Mixing(layer, made)
    mixing(torch.zeros(2, 4, 8, 8), layer(torch.zeros(2, 4, 8, 8)))
    mixing.settle()

    assert made.error == pytest.approx(0, abs=1e-3)


def test_the_share_that_is_told_as_the_nearest_can_be_had(cnn: Trial):
    with pytest.raises(IncompatibleRecipe) as raised:
        cnn.apply(keep_flops=0.05)
    (nearest,) = re.findall(r"ask for (0\.\d+) or more", raised.value.hint or "")
    cnn.apply(keep_flops=float(nearest))


def test_what_is_left_is_counted_and_named(cnn: Trial):
    made, ctx = cnn.apply()
    told = ctx.facts["surgery"]
    program = load_program(made.path)
    counts = layers(cnn.lifted(made), program.inputs)

    assert [row["name"] for row in told["layers"]] == ["2", "6"]
    assert {row["name"]: row["reason"] for row in told["left_out"]} == {
        "0": "is the first (`first_layer`)",
        "8": "reads one channel for each output",
        "10": "has a kernel of one place",
    }
    assert (told["parameters"][1], told["flops"][1]) == totals(counts)
    assert {"2.depthwise", "2.pointwise", "6.depthwise", "6.pointwise", "8"} <= {one.name for one in counts}
    assert told["fitted_on"] == "weights"
    assert load_program(cnn.model.path).outputs == program.outputs


def test_layers_that_lose_least_for_what_they_save_go_first(cnn: Trial):
    _, ctx = cnn.apply(keep_flops=0.7)

    assert [row["name"] for row in ctx.facts["surgery"]["layers"]] == ["6"]
    assert ctx.facts["surgery"]["flops"][1] <= 0.7 * ctx.facts["surgery"]["flops"][0]


def test_data_are_asked_where_they_are_given(cnn: Trial):
    images = torch.randn(40, 3, 12, 12).numpy()
    _, without = cnn.apply(ignore=["2"])
    made, ctx = cnn.apply({"calibration": {"images": images}}, ignore=["2"])

    assert ctx.facts["surgery"]["fitted_on"] == "data"
    given, wanted = cnn.run(made, images=images), cnn.run(cnn.model, images=images)
    plain = cnn.run(cnn.apply(ignore=["2"])[0], images=images)
    assert abs(given["logits"] - wanted["logits"]).mean() < abs(plain["logits"] - wanted["logits"]).mean()
    assert ctx.facts["surgery"]["layers"][0]["error"] != without.facts["surgery"]["layers"][0]["error"]


def test_the_first_layer_where_it_is_asked_for(cnn: Trial):
    _, ctx = cnn.apply(first_layer=True)

    assert ctx.facts["surgery"]["layers"][0]["name"] == "0"


@pytest.mark.parametrize(
    ("params", "error", "said"),
    [
        ({"ignore": ["nowhere*"]}, InvalidParams, r"nowhere"),
        ({"ignore": ["*"]}, IncompatibleRecipe, r"is ignored"),
        ({"keep_flops": 0.05}, IncompatibleRecipe, r"leaves 0\.\d+ of the operations"),
        ({"max_error": 1e-4}, IncompatibleRecipe, r"the nearest is"),
        ({"multiplier": 25}, IncompatibleRecipe, r"would save nothing"),
    ],
    ids=["nobody", "all-ignored", "out-of-reach", "none-near", "too-many-filters"],
)
def test_what_cannot_be_done_says_why(params: dict[str, Any], error: type[Exception], said: str, cnn: Trial):
    with pytest.raises(error, match=said) as raised:
        cnn.apply(**params)
    assert raised.value.hint
