"""Branches dropped by what the outputs lose: which one goes first, how many, and what is left."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn

from app.catalog.pass_params.shrink_depth import ShrinkDepthParams
from app.errors import IncompatibleRecipe, InvalidDataset, InvalidModel, InvalidParams
from app.measurements.compare import Interval
from tests.workers.surgery import residual
from tests.workers.surgery.engines import run_on
from tests.workers.surgery.residual import LENGTH, WIDTH
from tests.workers.surgery.trials import Trial, dataset, trial
from workers.context import PassContext
from workers.surgery.counting import layers, totals
from workers.surgery.depth import Time, shrink
from workers.torch.model import TorchModel
from workers.torch.program import load_program

ROWS: tuple[dict[str, Any], ...] = (
    {"name": "rows", "dtype": "float32", "shape": ["batch", LENGTH, WIDTH]},
    {"name": "mask", "dtype": "int64", "shape": ["batch", LENGTH]},
)
IMAGES = ({"name": "images", "dtype": "float32", "shape": ["batch", 3, 6, 6]},)
SCORES = ({"name": "scores", "dtype": "float32", "shape": ["batch", 3]},)
PICTURES = ({"name": "pictures", "dtype": "float32", "shape": ["batch", 2, 3, 3]},)
BRANCHES = ["layer.0.attention", "layer.0.mlp", "layer.1.attention", "layer.1.mlp"]


class Labels(residual.Unmasked):
    """Only the names of classes come out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).argmax(-1)


def some_rows(count: int = 24, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    mask = (np.arange(LENGTH) < random.integers(2, LENGTH + 1, (count, 1))).astype(np.int64)
    return {"rows": random.standard_normal((count, LENGTH, WIDTH)).astype(np.float32), "mask": mask}


def some_images(count: int = 24, seed: int = 0) -> dict[str, np.ndarray]:
    return {"images": np.random.default_rng(seed).standard_normal((count, 3, 6, 6)).astype(np.float32)}


@pytest.fixture
def encoder(tmp_path: Path) -> Trial:
    """A pre-norm encoder of two layers and a mask."""
    torch.manual_seed(0)
    return trial(tmp_path, "shrink-depth", residual.Encoder("pre"), ROWS, SCORES)


def dropped(ctx: PassContext) -> list[str]:
    return [row["name"] for row in ctx.facts["surgery"]["layers"]]


@pytest.mark.parametrize("network", ["post", "pre", "resnet", "mobile"])
def test_a_branch_that_gives_nothing_goes_first(network: str, tmp_path: Path):
    torch.manual_seed(0)
    if network in ("post", "pre"):
        made: nn.Module = residual.Encoder(network)
        silent, inputs, outputs, data = made.layer[1].mlp[2], ROWS, SCORES, some_rows()
        name = "layer.1.mlp"
    else:
        made, inputs, outputs, data = (
            getattr(residual, network)(), IMAGES, PICTURES, some_images()
        )  # fmt: skip
        silent, name = (made[3].body[4], "3.body") if network == "resnet" else (made[2].narrow, "2")
    with torch.no_grad():
        silent.weight.zero_()
        silent.bias.zero_()
    tried = trial(tmp_path, "shrink-depth", made, inputs, outputs)
    left, ctx = tried.apply({"train": data}, count=1, recalibrate=False)

    assert dropped(ctx) == [name]
    assert ctx.facts["surgery"]["layers"][0]["error"] == pytest.approx(0, abs=1e-6)
    fresh = some_rows(7, 1) if network in ("post", "pre") else some_images(7, 1)
    (key,) = (entry["name"] for entry in outputs)
    np.testing.assert_allclose(tried.run(left, **fresh)[key], tried.run(tried.model, **fresh)[key], atol=1e-5)


def test_what_is_left_is_counted_and_told(encoder: Trial):
    made, ctx = encoder.apply({"train": some_rows()}, to=0.6)
    told, program = ctx.facts["surgery"], load_program(made.path)
    network = encoder.lifted(made)
    counts = layers(network, program.inputs)

    assert (told["parameters"][1], told["flops"][1]) == totals(counts)
    assert told["flops"][1] <= 0.6 * told["flops"][0]
    for total, key in ((told["flops"], "flops"), (told["parameters"], "parameters")):
        assert total[0] - total[1] == sum(row[key][0] for row in told["layers"])
        assert {row[key][1] for row in told["layers"]} == {0}
    names = [name for row in told["layers"] for name in row["layers"]]
    assert not set(names) & {one.name for one in counts}
    assert {one.name for one in counts} <= {name for name, _ in encoder.lifted(encoder.model).named_modules()} | {
        one.name for one in counts if one.kind == "scaled_dot_product_attention"
    }  # fmt: skip
    assert all(row["error"] > 0 for row in told["layers"])
    assert sum(one.numel() for one in network.parameters()) == told["parameters"][1]


def test_what_is_lost_counts_for_what_is_saved(tmp_path: Path):
    """One branch adds a tenth and is cheap, the other adds a little more and is dear."""
    cheap, wide, narrow = (
        nn.Linear(8, 8, bias=False),
        nn.Linear(8, 64, bias=False),
        nn.Linear(64, 8, bias=False),
    )
    with torch.no_grad():
        cheap.weight.copy_(0.1 * torch.eye(8))
        wide.weight.copy_(torch.eye(64, 8))
        narrow.weight.copy_(0.12 * torch.eye(8, 64))
    network = nn.Sequential(residual.Added(cheap), residual.Added(nn.Sequential(wide, narrow)))
    rows = ({"name": "rows", "dtype": "float32", "shape": ["batch", 8]},)
    sums = ({"name": "sums", "dtype": "float32", "shape": ["batch", 8]},)
    tried = trial(tmp_path, "shrink-depth", network, rows, sums)
    data = {"train": {"rows": np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)}}
    gone = {}
    for name, params in (
        ("each", {"to": 0.98}),
        ("whole", {"to": 0.98, "per_saving": False}),
        ("count", {"count": 1}),
    ):
        _, ctx = tried.apply(data, **params)
        gone[name] = ctx.facts["surgery"]["layers"]

    assert {name: [row["name"] for row in rows] for name, rows in gone.items()} == {
        "each": ["1.inner"],
        "whole": ["0.inner"],
        "count": ["0.inner"],
    }
    assert gone["whole"][0]["error"] == pytest.approx(0.1 / 1.1, rel=1e-2)  # of a sum of 1.1 × 1.12
    assert gone["each"][0]["error"] == pytest.approx(0.12 / 1.12, rel=1e-2)


def test_all_branches_can_go_and_inputs_stay(encoder: Trial, tmp_path: Path):
    """The mask is read by nothing then, and is still an input of every engine."""
    made, ctx = encoder.apply({"train": some_rows()}, count=4)
    program = load_program(made.path)

    assert sorted(dropped(ctx)) == BRANCHES
    assert program.inputs == load_program(encoder.model.path).inputs
    data = some_rows(5, 2)
    found = run_on(made, "onnxruntime-cpu", data, tmp_path / "engine")["scores"]
    np.testing.assert_allclose(found, encoder.run(made, **data)["scores"], atol=1e-5)


@pytest.mark.parametrize(
    ("params", "error", "said"),
    [
        ({"to": 0.001}, IncompatibleRecipe, r"0.001 of the flops is out of reach: 0\.\d+ stays"),
        ({"to": 0.01, "target": "parameters"}, IncompatibleRecipe, r"of the parameters is out of reach"),
        ({"count": 5}, IncompatibleRecipe, r"count=5 is out of reach: 4 residual branches"),
        ({"ignore": ["nowhere"]}, InvalidParams, r"no branch and no layer of one is called 'nowhere'"),
        ({"ignore": ["*"]}, IncompatibleRecipe, r"no residual branch to drop: .* is ignored"),
    ],
    ids=["flops", "parameters", "count", "nobody", "all-ignored"],
)
def test_what_cannot_be_done_says_why(
    params: dict[str, Any], error: type[Exception], said: str, encoder: Trial
):
    with pytest.raises(error, match=said) as raised:
        encoder.apply({"train": some_rows()}, **params)
    assert raised.value.hint


def test_the_share_that_is_told_as_the_nearest_can_be_had(encoder: Trial):
    data = {"train": some_rows()}
    with pytest.raises(IncompatibleRecipe) as raised:
        encoder.apply(data, to=0.001)
    (nearest,) = re.findall(r"set `to` to (0\.\d+) or more", raised.value.hint or "")
    encoder.apply(data, to=float(nearest))


@pytest.mark.parametrize("ignore", ["*attention", "*.query"], ids=["branch", "layer"])
def test_a_branch_with_a_layer_that_is_ignored_stays(ignore: str, encoder: Trial):
    _, ctx = encoder.apply({"train": some_rows()}, count=2, ignore=[ignore])

    assert sorted(dropped(ctx)) == ["layer.0.mlp", "layer.1.mlp"]
    left = {row["name"]: row["reason"] for row in ctx.facts["surgery"]["left_out"]}
    assert left == dict.fromkeys(("layer.0.attention", "layer.1.attention"), "is ignored")


def test_a_network_without_branches_is_refused(tmp_path: Path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AvgPool2d(2))
    plain = trial(tmp_path, "shrink-depth", network, IMAGES, PICTURES)

    with pytest.raises(IncompatibleRecipe, match="no residual branch to drop: no addition") as raised:
        plain.apply({"train": some_images()})
    assert "prune-channels" in (raised.value.hint or "")


def test_data_that_are_no_numbers_are_named(encoder: Trial):
    data = some_rows()
    data["rows"][3] = np.nan
    with pytest.raises(InvalidDataset, match="'scores' is NaN or infinity"):
        encoder.apply({"train": data})


def test_outputs_that_cannot_be_compared_are_refused(tmp_path: Path):
    outputs = ({"name": "classes", "dtype": "int64", "shape": ["batch"]},)
    named = trial(tmp_path, "shrink-depth", Labels("pre"), ROWS[:1], outputs)
    with pytest.raises(InvalidModel, match="no output is of floating point numbers"):
        named.apply({"train": {"rows": some_rows()["rows"]}})


def test_batch_norms_count_anew(tmp_path: Path):
    torch.manual_seed(0)
    network = residual.resnet()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight)
            norm.running_var.fill_(2.0)
    tried = trial(tmp_path, "shrink-depth", network, IMAGES, PICTURES)
    data = {"train": some_images(64)}
    (kept, _), (fitted, ctx) = (tried.apply(data, count=1, recalibrate=anew) for anew in (False, True))
    mean = [
        next(value for name, value in tried.lifted(made).named_buffers() if name == "2.body.1.running_mean")
        for made in (kept, fitted)
    ]

    assert "2.body.1" in ctx.facts["recalibrated"]
    assert not torch.allclose(*mean)


def test_a_fixed_batch_is_taken(tmp_path: Path):
    torch.manual_seed(0)
    inputs, outputs = (({**entry[0], "shape": [1, *entry[0]["shape"][1:]]},) for entry in (IMAGES, PICTURES))
    tried = trial(tmp_path, "shrink-depth", residual.resnet(), inputs, outputs)
    made, ctx = tried.apply({"train": some_images()}, count=1)

    assert load_program(made.path).inputs[0]["shape"] == [1, 3, 6, 6]
    assert len(dropped(ctx)) == 1


def chosen(encoder: Trial, folder: Path, time: Time, to: float) -> Any:
    program = load_program(encoder.model.path)
    model = TorchModel(encoder.lifted(encoder.model), program.inputs, program.outputs)
    assert isinstance(model.module, fx.GraphModule)
    before = {one.name: one for one in layers(model.module, model.inputs)}
    ctx = PassContext(out=folder, work=folder, samples={"train": dataset(folder / "train", some_rows())})
    params = ShrinkDepthParams(target="latency", to=to)
    return shrink(model, before, params, ctx, time)


def test_a_latency_takes_as_few_branches_as_it_needs(encoder: Trial, tmp_path: Path):
    measured: list[int] = []

    def time(candidate: TorchModel) -> Interval:
        """As long as there are linear layers: 13 in the whole network."""
        count = sum(isinstance(layer, nn.Linear) for layer in candidate.module.modules())
        measured.append(count)
        return Interval(count / 13, count / 13, count / 13)

    found = chosen(encoder, tmp_path, time, 0.4)
    left = [sum(len(one.branch.layers) for one in found.drops)]

    assert [one["latency"] for one in found.tried] == [count / 13 for count in measured]
    final = sum(isinstance(layer, nn.Linear) for layer in found.network.modules())
    assert final / 13 <= 0.4 < max(count for count in [*measured, 13] if count != final) / 13
    assert len(found.drops) < 4
    assert left


def test_a_latency_out_of_reach_tells_the_nearest(encoder: Trial, tmp_path: Path):
    with pytest.raises(IncompatibleRecipe, match=r"0\.5 of the latency is out of reach: 0\.900 stays"):
        chosen(encoder, tmp_path, lambda candidate: Interval(0.9, 0.9, 0.9), 0.5)
