"""The loop: it learns, and whatever breaks it off or splits it up, it comes to the same weights."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.workers.training.arrays import digits, program, train_arrays
from workers.training.schedules import rate
from workers.training.weights import state_of

TRAIN, HELD = digits(512), digits(285, 1512)


class Dropping(nn.Module):
    """A network whose training draws random numbers: dropout, and a batch norm that keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(tmp_path_factory.mktemp("model"), Dropping())


def ended(model: Path, out: Path, **given: Any) -> dict[str, torch.Tensor]:
    """The weights after a training to its end."""
    loop, task = train_arrays(model, out, data=TRAIN, **given)
    loop.run()
    return {name: one.detach().clone() for name, one in state_of(task.network).items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(one, second[name]) for name, one in first.items()
    )


def test_it_learns_and_tells(model: Path, tmp_path: Path):
    told: list[dict[str, Any]] = []
    loop, _ = train_arrays(
        model, tmp_path, data=TRAIN, validation=HELD, tell=told.append, epochs=8, learning_rate=5e-3, metric="top1"
    )  # fmt: skip
    report = loop.run()

    assert report.before is not None
    assert report.before < 0.4
    assert report.best is not None
    assert report.best > 0.85
    assert report.steps == 8 * (512 // 64)
    assert report.history[-1].loss < report.history[0].loss / 2
    assert report.best == max(epoch.score for epoch in report.history if epoch.score is not None)
    assert report.weights == {"trained": 64 * 32 + 32 + 2 * 32 + 32 * 10 + 10, "frozen": 0}
    assert report.layers == {"batch_norms": 1, "dropouts": 1}
    assert [event["kind"] for event in told].count("checkpoint") == 1, "the last epoch's"
    progress = [event for event in told if event["kind"] == "progress"]
    assert progress
    assert all(0 < event["done"] <= event["total"] == report.steps for event in progress)


CASES = {
    "adamw": {},
    "sgd-accumulated": {"optimizer": "sgd", "learning_rate": 0.05, "accumulate": 4},
    "averaged-fp16": {"ema_decay": 0.95, "precision": "fp16"},
}


@pytest.mark.parametrize("params", CASES.values(), ids=CASES.keys())
def test_resumed_from_any_checkpoint_it_ends_with_the_same_bits(params: dict, model: Path, tmp_path: Path):
    """A checkpoint after each step: the last of an epoch, the first, any between."""
    kept: list[Path] = []

    def keep(event: dict[str, Any]) -> None:
        if event["kind"] == "checkpoint":
            kept.append(shutil.copytree(event["folder"], tmp_path / f"kept{len(kept)}"))

    given = {"validation": HELD, "epochs": 3, "batch_size": 128, "metric": "top1", "patience": 9, **params}
    whole = ended(model, tmp_path / "whole", checkpoint_seconds=0.0, tell=keep, **given)
    apart = ended(model, tmp_path / "apart", **given)

    assert same(whole, apart), "keeping checkpoints changes nothing"
    assert len(kept) == 3 * 4
    for number in (0, 2, 3, 4, 7, 9, len(kept) - 1):
        again = ended(model, tmp_path / f"again{number}", checkpoint=kept[number], **given)
        assert same(whole, again), f"checkpoint {number}"


def test_another_seed_is_another_training(model: Path, tmp_path: Path):
    first, second, other = (
        ended(model, tmp_path / str(number), seed=seed, epochs=1) for number, seed in enumerate((0, 0, 1))
    )

    assert same(first, second)
    assert not same(first, other)


def test_parts_of_a_batch_add_up_to_it(tmp_path: Path):
    """Where no layer looks at other samples of its part, as batch norms do, or draws numbers."""
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    model = program(tmp_path, plain)
    whole, parts = (
        ended(model, tmp_path / str(number), epochs=1, accumulate=number, optimizer="sgd", learning_rate=0.05)
        for number in (1, 4)
    )

    for name, one in whole.items():
        torch.testing.assert_close(one, parts[name], rtol=1e-4, atol=1e-6)


def test_the_average_is_what_is_left(model: Path, tmp_path: Path):
    """Against the same average computed from the weights of each step."""
    seen: list[dict[str, torch.Tensor]] = []
    loop, task = train_arrays(model, tmp_path, data=TRAIN, epochs=2, ema_decay=0.9)
    expected = {name: one.detach().double() for name, one in state_of(task.network).items()}
    update = loop._held.average.update

    def watched() -> None:
        seen.append({name: one.detach().double() for name, one in state_of(task.network).items()})
        update()

    loop._held.average.update = watched
    loop.run()
    for steps, state in enumerate(seen):
        decay = min(0.9, (1 + steps) / (10 + steps))
        for name, value in state.items():
            if name.endswith("num_batches_tracked"):
                expected[name] = value
            else:
                expected[name] = decay * expected[name] + (1 - decay) * value

    assert len(seen) == 16
    for name, one in state_of(task.network).items():
        torch.testing.assert_close(one.double(), expected[name], rtol=1e-4, atol=1e-6)
        assert not name.endswith("weight") or not torch.equal(one.double(), seen[-1][name])


def test_it_stops_when_nothing_gets_better_and_leaves_the_best(model: Path, tmp_path: Path):
    """A rate that destroys the network after the first steps: every later epoch is worse."""
    loop, task = train_arrays(
        model, tmp_path, data=TRAIN, validation=HELD, epochs=40, learning_rate=3e-3, schedule="constant",
        metric="top1", patience=2, seed=3,
    )  # fmt: skip
    report = loop.run()

    assert report.stopped_early
    assert report.epochs < 40
    assert report.best_epoch == report.epochs - 2
    with torch.no_grad():
        found = task.network(torch.from_numpy(HELD[0])).argmax(1).numpy()
    assert float(np.mean(found == HELD[1])) == pytest.approx(report.best)


def test_weights_that_no_epoch_beats_are_left(model: Path, tmp_path: Path):
    """A network that knows all is trained with a rate that spoils it."""
    good = ended(model, tmp_path / "good", epochs=10, learning_rate=5e-3)
    loop, task = train_arrays(
        model, tmp_path / "bad", data=TRAIN, validation=HELD, epochs=1, optimizer="sgd", learning_rate=100.0,
        clip_norm=None, metric="top1", warmup=0.0,
    )  # fmt: skip
    with torch.no_grad():
        for name, tensor in state_of(task.network).items():
            tensor.copy_(good[name])
    report = loop.run()

    assert report.best_epoch == 0
    assert report.best == report.before
    assert same(good, state_of(task.network))


def test_batch_norms_are_left_alone_where_that_is_asked(model: Path, tmp_path: Path):
    before = {name: one.clone() for name, one in state_of(train_arrays(model, tmp_path)[1].network).items()}
    frozen = ended(model, tmp_path / "frozen", epochs=1, freeze_batch_norm=True)
    free = ended(model, tmp_path / "free", epochs=1)

    statistics = [name for name in before if "running" in name]
    assert len(statistics) == 2
    for name in statistics:
        assert torch.equal(frozen[name], before[name])
        assert not torch.equal(free[name], before[name])
    assert not torch.equal(frozen["body.2.weight"], before["body.2.weight"])


def test_gradients_are_clipped_to_the_norm(model: Path, tmp_path: Path):
    """SGD without momentum moves the weights by the rate times the clipped norm."""
    given = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 1.0, "weight_decay": 0.0, "warmup": 0.0}
    before = state_of(train_arrays(model, tmp_path)[1].network)
    moved = ended(
        model, tmp_path / "out", epochs=1, batch_size=512, schedule="constant", clip_norm=0.01, **given
    )

    change = [(moved[name] - one).flatten() for name, one in before.items() if isinstance(one, nn.Parameter)]
    assert float(torch.cat(change).detach().norm()) == pytest.approx(0.01, rel=1e-3)


def test_weights_and_no_norms_decay(model: Path, tmp_path: Path):
    """A rate too small to learn with, and a decay that shrinks what it is applied to."""
    loop, task = train_arrays(
        model, tmp_path, data=TRAIN, epochs=1, batch_size=512, learning_rate=1e-2, weight_decay=10.0, warmup=0.0,
        schedule="constant", optimizer="sgd", momentum=0.0, clip_norm=1e-6,
    )  # fmt: skip
    before = {name: one.detach().clone() for name, one in task.network.named_parameters()}
    loop.run()

    for name, one in task.network.named_parameters():
        shrunk = before[name] * (0.9 if one.ndim > 1 else 1.0)
        torch.testing.assert_close(one, shrunk, rtol=1e-4, atol=1e-6)


def test_the_rate_rises_and_falls():
    from app.catalog.pass_params.training import TrainingParams

    params = TrainingParams(learning_rate=2.0, warmup=0.1)
    rates = [rate(params, step, 100) for step in range(100)]

    assert rates[:3] == pytest.approx([0.2, 0.4, 0.6])
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(1.0)
    assert 0 < rates[99] < 0.001
    constant = params.model_copy(update={"schedule": "constant"})
    assert [rate(constant, step, 100) for step in (10, 50, 99)] == [2.0] * 3
