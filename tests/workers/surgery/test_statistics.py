"""What layers give on data, again as it was before channels went: of networks with batch norms, and of those that exporters folded."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.workers.surgery.cutting import answers, coupled, some_units
from tests.workers.surgery.engines import in_format
from tests.workers.surgery.trials import Trial, dataset, trial
from tests.workers.training.networks import Small, accuracy, digits, fit, untrained
from workers.context import PassContext
from workers.model_handle import ModelHandle
from workers.surgery.cut import cut
from workers.surgery.statistics import moments, restore
from workers.torch.model import TorchModel

SAMPLES = 64  # one batch
IMAGES = ({"name": "images", "dtype": "float32", "shape": ["batch", 1, 8, 8]},)
LOGITS = ({"name": "logits", "dtype": "float32", "shape": ["batch", 10]},)


class Several(nn.Module):
    """A convolution in front of a batch norm, plain ones, and layers that cannot be changed: without a bias, called twice."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8) if norm else nn.Identity()
        self.second, self.bare = nn.Conv2d(8, 12, 3), nn.Conv2d(12, 12, 1, bias=False)
        self.twice, self.head = nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bare(self.second(self.norm(self.first(x)).relu()).relu()).relu().mean((2, 3))
        return self.head(self.twice(self.twice(x).relu()).relu())


@pytest.fixture
def seen(tmp_path: Path) -> PassContext:
    """Images that the networks here take."""
    images = np.random.default_rng(0).standard_normal((SAMPLES, 3, 7, 7)).astype(np.float32)
    return PassContext(out=tmp_path, samples={"train": dataset(tmp_path / "train", {"x0": images})})


def restored(
    seen: PassContext, share: float
) -> tuple[TorchModel, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """A network without some of its channels, and what layers give now and should."""
    model, coupling = coupled(Several(), 3, 7, 7)
    units = some_units(coupling, share, seed=0)
    before = moments(model, seen, SAMPLES)
    wanted = {name: one.of(coupling.staying(name, units)) for name, one in before.items()}
    cut(model.module, coupling, units)
    restore(model, wanted, seen, SAMPLES)
    after = moments(model, seen, SAMPLES)
    return model, {name: (after[name], wanted[name]) for name in wanted}


def test_layers_give_the_mean_and_deviation_that_they_gave(seen: PassContext):
    _, found = restored(seen, 0.3)

    assert set(found) == {"second", "head"}
    for after, wanted in found.values():
        torch.testing.assert_close(after.mean, wanted.mean, atol=1e-3, rtol=0.01)
        torch.testing.assert_close(after.variance, wanted.variance, atol=1e-4, rtol=0.01)


def test_where_nothing_went_nothing_changes(seen: PassContext):
    model, _ = coupled(Several(norm=False), 3, 7, 7)
    (wanted,) = answers(model)

    assert restore(model, moments(model, seen, SAMPLES), seen, SAMPLES) == ["first", "second", "head"]
    torch.testing.assert_close(answers(model)[0], wanted, atol=1e-5, rtol=1e-4)


def test_a_channel_that_no_longer_moves_is_not_blown_up(seen: PassContext):
    model, _ = coupled(Several(), 3, 7, 7)
    wanted = moments(model, seen, SAMPLES)
    weight = model.module.get_parameter("second.weight").detach()
    weight[3] *= 1e-6
    before = weight[3].clone()
    restore(model, wanted, seen, SAMPLES)

    torch.testing.assert_close(weight[3], 10 * before)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelHandle]:
    """A network that knows digits, with batch norms; and without, as it comes from ONNX."""
    folder = tmp_path_factory.mktemp("known")
    network = fit(untrained(Small), digits().train, epochs=8)
    program = trial(folder, "prune-channels", network, IMAGES, LOGITS).model
    exported = in_format(program, frozenset({"onnx"}), folder / "onnx")
    return {"program": program, "onnx": in_format(exported, frozenset({"torch-export"}), folder / "again")}


@pytest.mark.parametrize("importance", ["magnitude-l2", "taylor"])
@pytest.mark.parametrize("kind", ["program", "onnx"])
def test_accuracy_comes_back_without_training(
    kind: str, importance: str, known: dict[str, ModelHandle], tmp_path: Path
):
    data, found = digits(), {}
    tried = Trial(tmp_path, "prune-channels", known[kind])
    images = {"train": {"images": data.train.first(256).inputs["images"]}}
    for recalibrate in (True, False):
        made, ctx = tried.apply(
            images,
            importance=importance,
            target="flops",
            to=0.6,
            steps=2,
            round_to=1,
            recalibrate=recalibrate,
        )
        found[recalibrate] = accuracy(Single(tried.lifted(made)), data.held)
        told = (
            {"program": 3 + 1, "onnx": 3 + 1}[kind] if recalibrate else 0
        )  # norms or convolutions, and the head
        assert len(ctx.facts.get("recalibrated", [])) == told

    assert found[True] > found[False] + 0.1


class Single(nn.Module):
    """The first output."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        found = self.network(*values)
        return found if isinstance(found, torch.Tensor) else next(iter(found))
