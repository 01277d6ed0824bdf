"""The pass `prune-channels`: what it leaves of trained networks, by every importance and to every target; and what it refuses."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from app.catalog.pass_params.prune_channels import PruneChannelsParams
from app.errors import BurnishError, IncompatibleRecipe, InvalidDataset, InvalidParams
from tests.workers.engines.networks import ArraySamples
from tests.workers.surgery.cutting import onnx_flops
from tests.workers.surgery.simulated import OfOperations
from tests.workers.training.networks import (
    Labelled,
    Parted,
    Small,
    accuracy,
    digits,
    fit,
    read_digits,
    trained,
    untrained,
    write_program,
)
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.passes.prune_channels import apply
from workers.surgery.counting import layers, totals
from workers.torch.lift import lift
from workers.torch.model import TorchModel
from workers.torch.program import export, load_program, runner, save_program

Run = Callable[..., tuple[ModelHandle, PassContext]]


@pytest.fixture(scope="module")
def small() -> nn.Module:
    """A network with batch norms that knows digits."""
    return fit(untrained(Small), digits().train, epochs=8)


@pytest.fixture
def prune(tmp_path: Path) -> Run:
    """`prune(network or handle, labelled data, **params)`: the pass's model and its context."""
    count = 0

    def run(
        network: nn.Module | ModelHandle,
        data: Labelled,
        timing: Any = None,
        labels: bool = True,
        seed: int = 0,
        **params: Any,
    ) -> tuple[ModelHandle, PassContext]:
        nonlocal count
        count += 1
        root = tmp_path / str(count)
        if isinstance(network, nn.Module):
            path = write_program(network, data.first(4), root / "model" / "model.pt2")
            network = ModelHandle(path.parent, path.name, "torch-export", tree_digest(path.parent))
        used = data.first(256)
        samples = ArraySamples(dict(used.inputs), used.labels if labels else None).filed(root / "data")
        out = root / "out"
        out.mkdir(parents=True)
        context = PassContext(out=out, samples={"train": samples}, timing=timing, seed=seed)
        params = {"round_to": 1, **params}  # the networks are narrow
        return apply(network, PruneChannelsParams(**params), context), context

    return run


def opened(handle: ModelHandle) -> TorchModel:
    program = load_program(handle.path)
    return TorchModel(lift(program.program), program.inputs, program.outputs)


NETWORKS: dict[str, Callable[[], Parted]] = {"small": digits, "reader": read_digits}


@pytest.mark.parametrize(
    ("importance", "kind"),
    [
        ("magnitude-l1", "small"), ("batch-norm", "small"), ("taylor", "small"), ("random", "small"),
        *(
            pytest.param(importance, "reader", marks=pytest.mark.slow)
            for importance in ("magnitude-l2", "taylor", "hessian")
        ),
    ],
)  # fmt: skip
def test_prunes_to_a_share_of_the_operations(
    importance: str, kind: str, small: nn.Module, prune: Run, tmp_path: Path
):
    network = small if kind == "small" else trained("reader")
    data = NETWORKS[kind]()
    handle, context = prune(
        network, data.train, importance=importance, target="flops", to=0.7, samples=32, steps=2
    )
    model = opened(handle)
    parameters, flops = totals(layers(model.module, model.inputs))
    facts = context.facts

    assert 0.5 < flops / facts["flops"]["before"] <= 0.7
    assert (parameters, flops) == (facts["parameters"]["after"], facts["flops"]["after"])
    assert flops == sum(row["flops"]["after"] for row in facts["layers"])
    if importance == "taylor":
        assert flops == onnx_flops(model, tmp_path / "onnx")
    narrower = [row for row in facts["layers"] if "channels" in row]
    assert any(row["channels"]["after"] < row["channels"]["before"] for row in narrower)
    head = next(row for row in narrower if row["name"] == "head")
    assert head["channels"] == {"before": 10, "after": 10}


@pytest.mark.slow
def test_what_data_say_is_worth_more_than_chance(small: nn.Module, prune: Run):
    """Of three seeds of chance not one leaves as much as the Taylor expansion, at the same operations."""
    data = digits()
    told = {"target": "flops", "to": 0.3, "scope": "per-layer"}
    handle, _ = prune(small, data.train, importance="taylor", **told)
    chance = [
        accuracy(
            opened(prune(small, data.train, importance="random", seed=seed, **told)[0]).module, data.held
        )
        for seed in range(3)
    ]

    assert accuracy(opened(handle).module, data.held) > max(chance) + 0.05


def test_training_wins_back_what_pruning_cost(small: nn.Module, prune: Run):
    data = digits()
    handle, _ = prune(small, data.train, target="flops", to=0.5)
    model = opened(handle)
    before = accuracy(model.module, data.held)
    after = accuracy(fit(model.module, data.train, epochs=4, rate=2e-3), data.held)

    assert after > before
    assert after > accuracy(small, data.held) - 0.03


def test_a_ratio_is_of_all_units_or_of_each_layer(small: nn.Module, prune: Run):
    _, over_all = prune(small, digits().train, ratio=0.25)
    _, of_each = prune(
        small, digits().train, ratio=0.25, scope="per-layer", importance="taylor", steps=2, samples=32
    )
    widths = [row["channels"] for row in of_each.facts["layers"] if "channels" in row]

    assert over_all.facts["units"] == {"removable": 64, "removed": 16}
    assert [(one["before"], one["after"]) for one in widths] == [(16, 12), (16, 12), (32, 24), (10, 10)]


def test_layers_keep_multiples_and_a_least_share(small: nn.Module, prune: Run):
    _, rounded = prune(small, digits().train, ratio=0.4, round_to=8)
    _, kept = prune(small, digits().train, ratio=0.4, keep=0.5, scope="global", importance="random")

    for row in rounded.facts["layers"][:-1]:
        assert "channels" not in row or row["channels"]["after"] % 8 == 0
    for row in kept.facts["layers"]:
        assert "channels" not in row or row["channels"]["after"] * 2 >= row["channels"]["before"]


@pytest.mark.parametrize("target", ["parameters", "size"])
def test_prunes_to_a_share_of_the_weights(target: str, small: nn.Module, prune: Run):
    handle, context = prune(small, digits().train, target=target, to=0.5)
    told = context.facts["size_bytes" if target == "size" else target]
    module = opened(handle).module
    held = sum(one.numel() for one in module.parameters())

    assert 0.4 < told["after"] / told["before"] <= 0.5
    if target == "parameters":
        assert told["after"] == held
    else:
        assert told["after"] == sum(one.numel() * one.element_size() for one in module.state_dict().values())


def test_nothing_pruned_gives_the_same_answers(small: nn.Module, prune: Run):
    handle, context = prune(small, digits().train, ratio=0)
    images = torch.from_numpy(digits().held.inputs["images"])
    with torch.no_grad():
        wanted = small(images)

    assert np.array_equal(
        runner(load_program(handle.path))({"images": images.numpy()})["logits"], wanted.numpy()
    )
    assert not context.warnings


def test_without_labels_what_counts_is_how_much_outputs_change(prune: Run):
    data = read_digits()
    handle, context = prune(
        trained("reader"),
        data.train,
        importance="taylor",
        target="flops",
        to=0.8,
        labels=False,
        samples=64,
        steps=2,
    )

    assert accuracy(opened(handle).module, data.held) > accuracy(trained("reader"), data.held) - 0.1
    assert context.facts["units"]["removed"]


def test_a_network_of_one_batch_size_keeps_it(prune: Run, tmp_path: Path):
    inputs = ({"name": "images", "dtype": "float32", "shape": [1, 1, 8, 8]},)
    outputs = ({"name": "logits", "dtype": "float32", "shape": [1, 10]},)
    (tmp_path / "one").mkdir()
    save_program(
        export(TorchModel(untrained(Small), inputs, outputs)), inputs, outputs, tmp_path / "one" / "model.pt2"
    )
    given = ModelHandle(tmp_path / "one", "model.pt2", "torch-export", "0")
    handle, _ = prune(given, digits().train, importance="taylor", ratio=0.5, samples=16, steps=2)

    assert [entry["shape"] for entry in load_program(handle.path).inputs] == [[1, 1, 8, 8]]


@pytest.mark.parametrize("to", [pytest.param(0.8, marks=pytest.mark.slow), 0.5])
def test_prunes_to_a_share_of_the_latency_in_few_tries(to: float, prune: Run, small: nn.Module):
    unpruned, _ = prune(small, digits().train, ratio=0)
    timing = OfOperations(unpruned)
    handle, context = prune(small, digits().train, timing, target="latency", to=to)

    assert abs(timing.share(handle).value / to - 1) <= 0.05
    assert len(context.facts["latency"]) == len(timing.tried) - 1
    assert len({one["flops"] for one in context.facts["latency"]}) <= 5
    assert context.facts["latency_met"]
    assert any("Latency" in text for text in context.told)


def test_takes_no_steps_where_they_would_be_faster_than_asked_for(prune: Run, small: nn.Module):
    """Operations that go in earlier steps are a share, of which the latency may be less."""
    unpruned, _ = prune(small, digits().train, ratio=0)
    timing = OfOperations(unpruned, lambda flops: flops**3)
    asked = {"importance": "taylor", "samples": 64, "target": "latency", "to": 0.6, "round_to": 1}
    handle, context = prune(small, digits().train, timing, **asked)

    assert context.facts["latency_met"]
    assert timing.share(handle).value == pytest.approx(0.6, rel=0.05)
    assert context.facts["latency_left"] == pytest.approx(timing.tried[-1])
    assert any("estimated once" in text for text in context.told)


@pytest.mark.slow
def test_names_the_nearest_latency_that_it_reached(prune: Run, small: nn.Module):
    unpruned, _ = prune(small, digits().train, ratio=0)
    timing = OfOperations(unpruned, lambda flops: 0.9 if flops > 0.5 else 0.3)
    _, context = prune(small, digits().train, timing, target="latency", to=0.6)

    assert not context.facts["latency_met"]
    assert context.facts["latency_left"] == pytest.approx(0.3)
    (warning,) = context.warnings
    assert "the nearest reached that is faster takes 0.300; the next slower one takes 0.900" in warning


def test_the_same_seed_leaves_the_same_bytes(small: nn.Module, prune: Run):
    told = {"importance": "taylor", "ratio": 0.3, "steps": 2, "samples": 16}
    first, second = (prune(small, digits().train, seed=3, **told)[0] for _ in range(2))

    assert first.digest == second.digest


class Twofold(nn.Module):
    """Two outputs with a layer each."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.left, self.right = nn.Linear(64, 12), nn.Linear(12, 8), nn.Linear(12, 8)
        self.one, self.two = nn.Linear(8, 10), nn.Linear(8, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        shared = self.shared(images.flatten(1)).relu()
        return self.one(self.left(shared)), self.two(self.right(shared))


def twofold(folder: Path) -> ModelHandle:
    inputs = ({"name": "images", "dtype": "float32", "shape": ["batch", 1, 8, 8]},)
    outputs = tuple({"name": name, "dtype": "float32", "shape": ["batch", 10]} for name in ("one", "two"))
    folder.mkdir()
    save_program(
        export(TorchModel(untrained(Twofold), inputs, outputs)), inputs, outputs, folder / "model.pt2"
    )
    return ModelHandle(folder, "model.pt2", "torch-export", "0")


REFUSED: list[tuple[str, dict[str, Any], type[BurnishError], str, str]] = [
    ("no such layer", {"ignore": ["featuers.*"]}, InvalidParams, "featuers", "ignore"),
    ("ratio beyond what layers keep", {"ratio": 0.8, "keep": 0.5}, IncompatibleRecipe, "0.5 can", "ratio"),
    (
        "of each layer",
        {"ratio": 0.8, "keep": 0.5, "scope": "per-layer"},
        IncompatibleRecipe,
        "0.5 can",
        "ratio",
    ),
    ("operations", {"target": "flops", "to": 0.01}, IncompatibleRecipe, "least that can stay", "to"),
    ("all is ignored", {"ignore": ["*"]}, IncompatibleRecipe, "no layer", ""),
    ("no such output", {"importance": "taylor", "output": "scores"}, BurnishError, "scores", "output"),
    ("another loss", {"importance": "taylor", "loss": "l1"}, BurnishError, "shape", "output"),
]


@pytest.mark.parametrize(
    ("params", "kind", "said", "param"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_refuses_with_a_way_out(
    params: dict[str, Any], kind: type[BurnishError], said: str, param: str, small: nn.Module, prune: Run
):
    with pytest.raises(kind) as refusal:
        prune(small, digits().train, **params)
    assert said in refusal.value.detail
    assert refusal.value.hint
    assert (refusal.value.param or "") == param


def test_refuses_layers_that_no_gradient_reaches(prune: Run, tmp_path: Path):
    with pytest.raises(IncompatibleRecipe, match="no gradient reaches right") as refusal:
        prune(twofold(tmp_path / "two"), digits().train, importance="taylor", output="one")
    assert refusal.value.node == "right"
    handle, _ = prune(
        twofold(tmp_path / "again"),
        digits().train,
        importance="taylor",
        output="one",
        ignore=["right", "two"],
    )
    assert opened(handle).module.get_submodule("right").out_features == 8


def test_refuses_a_network_without_batch_norms_for_their_scale(prune: Run):
    with pytest.raises(IncompatibleRecipe, match="says nothing of the channels"):
        prune(trained("reader"), read_digits().train, importance="batch-norm")


def test_refuses_a_network_without_layers(prune: Run, tmp_path: Path):
    class Sum(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).cumsum(1)[:, :10]

    with pytest.raises(IncompatibleRecipe, match="no layer with channels"):
        prune(Sum(), digits().train)


def test_names_the_samples_whose_loss_is_not_a_number(prune: Run, small: nn.Module):
    broken = copy.deepcopy(digits().train.first(64))
    broken.inputs["images"][7] = np.nan
    with pytest.raises(InvalidDataset, match=r"the loss of samples \[7\] is nan"):
        prune(small, broken, importance="hessian", samples=64)


def test_names_the_layer_that_gives_no_number(prune: Run, small: nn.Module):
    broken = copy.deepcopy(digits().train.first(64))
    broken.inputs["images"][7] = np.nan
    with pytest.raises(InvalidDataset, match="head gets or gives NaN"):
        prune(small, broken, ratio=0.3)


def test_takes_a_ratio_or_a_target():
    with pytest.raises(ValidationError, match="a ratio or a target, not both"):
        PruneChannelsParams(ratio=0.5, target="flops")
