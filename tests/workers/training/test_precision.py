"""Mixed precision: what is computed in which type, that it learns the same, and what fp16's scale does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app.errors import InvalidDataset
from tests.workers.training.arrays import digits, program, train_arrays
from workers.training.loop import MOST_SKIPPED
from workers.training.precision import FIRST_SCALE, Precision
from workers.training.report import TrainingReport

TRAIN, HELD = digits(1200), digits(597, 1200)
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(tmp_path_factory.mktemp("model"))


def trained(model: Path, out: Path, **params: Any) -> TrainingReport:
    loop, _ = train_arrays(model, out, data=TRAIN, validation=HELD, metric="top1", **params)
    return loop.run()


@pytest.mark.parametrize("precision", TYPES)
def test_layers_compute_in_the_type_and_weights_stay_fp32(precision: str, model: Path, tmp_path: Path):
    loop, task = train_arrays(model, tmp_path, data=digits(64), epochs=1, precision=precision)
    seen: dict[str, set[torch.dtype]] = {"forward": set(), "backward": set()}
    layer = [module for module in task.network.modules() if isinstance(module, nn.Conv2d)][1]
    layer.register_forward_hook(lambda _, given, out: seen["forward"].add(out.dtype))
    layer.register_full_backward_hook(lambda _, given, out: seen["backward"].add(out[0].dtype))
    inside: list[bool] = []
    backward = loop._precision.backward

    def watched(loss: torch.Tensor) -> None:
        inside.append(torch.is_autocast_enabled("cpu"))
        assert loss.dtype == torch.float32
        backward(loss)

    loop._precision.backward = watched
    loop.run()

    assert seen == {"forward": {TYPES[precision]}, "backward": {TYPES[precision]}}
    assert inside == [False]
    assert {one.dtype for one in task.network.parameters()} == {torch.float32}
    assert {one.grad.dtype for one in task.network.parameters() if one.grad is not None} == {torch.float32}


def test_half_precisions_learn_as_much_as_fp32(model: Path, tmp_path: Path):
    """On 597 held-back digits two networks that are equally good differ by less than 2 points in nineteen of twenty cases."""
    scores = {
        name: trained(model, tmp_path / name, epochs=8, learning_rate=1e-2, precision=name).best
        for name in TYPES
    }

    assert scores["fp32"] > 0.93
    assert scores["bf16"] == pytest.approx(scores["fp32"], abs=0.02)
    assert scores["fp16"] == pytest.approx(scores["fp32"], abs=0.02)


def test_facts(model: Path, tmp_path: Path):
    reports = {name: trained(model, tmp_path / name, epochs=1, precision=name) for name in TYPES}

    assert reports["fp32"].precision == {"precision": "fp32"}
    assert reports["bf16"].precision == {"precision": "bf16"}
    assert reports["fp16"].precision == {
        "precision": "fp16",
        "loss_scale": FIRST_SCALE,
        "skipped_steps": 0,
    }


class Steep(nn.Module):
    """Scores that are a thousand times a layer's: their gradients, times the first scale, are beyond 65504."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images.flatten(1)) * 1000


def test_steps_that_overflow_are_skipped_until_the_scale_fits(tmp_path: Path):
    given = {"epochs": 2, "learning_rate": 1e-5, "clip_norm": None}
    report = trained(program(tmp_path, Steep()), tmp_path / "out", precision="fp16", **given)

    skipped = report.precision["skipped_steps"]
    assert 0 < skipped < MOST_SKIPPED
    assert report.precision["loss_scale"] == FIRST_SCALE / 2**skipped
    assert report.history[-1].loss < report.history[0].loss


def test_what_no_scale_mends_ends_the_training(model: Path, tmp_path: Path):
    images = digits(1200)[0]
    images[::7] = float("nan")  # in every batch
    loop, _ = train_arrays(model, tmp_path, data=(images, TRAIN[1]), precision="fp16", epochs=4)
    with pytest.raises(InvalidDataset) as refusal:
        loop.run()

    assert f"step {MOST_SKIPPED + 1}" in refusal.value.detail
    assert "NaN" in refusal.value.detail


def test_small_gradients_do_not_vanish():
    """1e-8 is below what fp16 holds (6e-8): scaled it comes through, unscaled it is right."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    precision = Precision("fp16", torch.device("cpu"))
    with precision.autocast():
        half = weight.to(torch.float16)
        loss = (half * half.new_tensor(1.0)).float().sum() * 1e-8
    precision.backward(loss)
    assert weight.grad is not None
    precision.unscale(optimizer)

    assert float(weight.grad) == pytest.approx(1e-8, rel=1e-2)
    assert precision.step(optimizer)


def test_the_scale_goes_on_from_a_checkpoint():
    first, second = (Precision("fp16", torch.device("cpu")) for _ in range(2))
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    first.backward(weight.sum() * float("inf"))
    first.unscale(optimizer)
    assert not first.step(optimizer)
    second.restore(first.state())

    assert (
        second.facts()
        == first.facts()
        == {
            "precision": "fp16",
            "loss_scale": FIRST_SCALE / 2,
            "skipped_steps": 1,
        }
    )
    assert second.skipped_in_a_row == 1
