"""What a checkpoint holds, and what it does not: code."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tests.workers.training.arrays import digits, program, train_arrays
from workers.training.checkpoints import STATE, TENSORS, restore
from workers.training.group import SingleProcess
from workers.training.weights import state_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_it_is_safetensors_and_json_and_loads_exactly(optimizer: str, model: Path, tmp_path: Path):
    folders: list[Path] = []

    def tell(event: dict[str, Any]) -> None:
        if event["kind"] == "checkpoint":
            folder = Path(event["folder"])
            assert sorted(file.name for file in folder.iterdir()) == [STATE, TENSORS]
            folders.append(folder)

    given = {"validation": digits(100, 600), "optimizer": optimizer, "epochs": 2, "ema_decay": 0.9}
    loop, _ = train_arrays(model, tmp_path / "first", tell=tell, checkpoint_seconds=0.0, **given)
    loop.run()
    fresh, _ = train_arrays(model, tmp_path / "second", **given)
    state = restore(fresh._held, folders[-1], SingleProcess())

    assert len(set(folders)) == len(folders) == 2 * 8, "a new folder each time: storage may link its files"
    assert [folder.exists() for folder in folders] == [False] * 15 + [True], (
        "what was told of is kept elsewhere"
    )
    assert state["progress"]["done"] == 2 * 8
    with safe_open(folders[-1] / TENSORS, "pt") as file:
        names = set(file.keys())
    expected = loop._held.tensors()
    # the network itself was given its best weights at the end
    held = {name: one for name, one in fresh._held.tensors().items() if not name.startswith("network/")}
    assert names == set(expected)
    assert {"network/head.weight", "average/head.weight", "best/head.weight"} <= names
    assert any(name.startswith("optimizer/network/head.weight/") for name in names)
    for name, one in held.items():
        assert torch.equal(one, expected[name]), name
        assert one.dtype == expected[name].dtype


class States:
    """The states that a training kept, read as it tells of them."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        if event["kind"] == "checkpoint":
            self.kept.append(json.loads((Path(event["folder"]) / STATE).read_text()))

    def told(self, name: str) -> list[Any]:
        return [state["progress"][name] for state in self.kept]


def test_the_state_is_plain_json(model: Path, tmp_path: Path):
    """An epoch's last step is kept once, with the epoch's score."""
    states = States()
    loop, _ = train_arrays(model, tmp_path, tell=states, epochs=2, checkpoint_seconds=0.0)
    loop.run()

    assert states.told("done") == [*range(1, 17)]
    assert states.told("epoch") == [0] * 7 + [1] * 8 + [2]


def test_epochs_shorter_than_the_clock_are_not_kept_but_for_the_last(model: Path, tmp_path: Path):
    states = States()
    loop, _ = train_arrays(model, tmp_path, tell=states, epochs=3)
    loop.run()

    assert states.told("done") == [3 * 8]
    assert states.told("epoch") == [3]


def test_the_epoch_that_stops_early_is_kept(model: Path, tmp_path: Path):
    """Whoever goes on from it trains no further, and leaves the best weights."""
    states, folders = States(), list[Path]()

    def tell(event: dict[str, Any]) -> None:
        states(event)
        folders.extend([Path(event["folder"])] if event["kind"] == "checkpoint" else [])

    given = {
        "validation": digits(100, 600), "epochs": 40, "schedule": "constant", "learning_rate": 1.0, "patience": 2,
        "metric": "top1",
    }  # fmt: skip
    first, one = train_arrays(model, tmp_path / "first", tell=tell, **given)
    report = first.run()
    again, other = train_arrays(model, tmp_path / "second", checkpoint=folders[-1], **given)
    resumed = again.run()

    assert report.stopped_early
    assert states.told("epoch") == [report.epochs] == [resumed.epochs]
    assert resumed.best_epoch == report.best_epoch == report.epochs - 2
    left = state_of(one.network)
    assert all(torch.equal(value, left[name]) for name, value in state_of(other.network).items())


def test_it_goes_on_counting(model: Path, tmp_path: Path):
    """Time, steps and scores of the attempts before are part of the report."""
    folders: list[Path] = []

    def tell(event: dict[str, Any]) -> None:
        if event["kind"] == "checkpoint":
            folders.append(Path(event["folder"]))
            if len(folders) == 3 * 8:
                raise KeyboardInterrupt

    given = {"validation": digits(100, 600), "metric": "top1", "epochs": 4}
    loop, _ = train_arrays(model, tmp_path / "first", tell=tell, checkpoint_seconds=0.0, **given)
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    again, _ = train_arrays(model, tmp_path / "second", checkpoint=folders[-1], **given)
    report = again.run()
    whole = train_arrays(model, tmp_path / "whole", **given)[0].run()

    assert report.resumed_from == [24]
    assert report.history == whole.history
    assert (report.before, report.best, report.best_epoch) == (whole.before, whole.best, whole.best_epoch)
    steps = [row["step"] for row in again.rows]
    assert steps == sorted(steps)
    assert [row["step"] for row in loop.rows] == steps[: len(loop.rows)]
    assert len(steps) == whole.steps + whole.epochs
