"""Trainings of several processes: what they give, and what happens when one dies."""

from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from app.errors import InvalidParams
from tests.workers.training.together import wide
from tests.workers.training.trainings import (
    BATCH,
    FolderCheckpoint,
    Setting,
    members,
    needs_horovod,
    together,
)
from workers.context import PassContext
from workers.problems import ProcessDied
from workers.training import launch
from workers.training.report import TrainingReport

EPOCHS = 3
STEPS = 512 // BATCH
MIDDLE = STEPS + STEPS // 2  # checkpoints, where each step is kept
CURVE, WEIGHT = 0.01, 0.02  # of the loss, of the largest weight: rounding grows from step to step


class Ended(Exception):
    """The attempt was."""


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting.make(tmp_path_factory.mktemp("setting"), wide())


Trained = tuple[TrainingReport, dict[str, Tensor], PassContext]


@pytest.fixture(scope="module")
def alone(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return setting.train(tmp_path_factory.mktemp("alone"), epochs=EPOCHS)


def names(trained: Trained) -> set[str]:
    """What the pass leaves for the user."""
    aside = trained[2].aside
    assert aside is not None
    return {path.name for path in aside.iterdir()}


def is_same(found: Trained, expected: Trained) -> None:
    assert [epoch.loss for epoch in found[0].history] == pytest.approx(
        [epoch.loss for epoch in expected[0].history], rel=CURVE
    )
    assert found[0].steps == expected[0].steps == EPOCHS * STEPS
    assert set(found[1]) == set(expected[1])
    for name, value in expected[1].items():
        if value.is_floating_point():
            assert float((found[1][name] - value).abs().max()) <= WEIGHT * float(value.abs().max()), name


BACKENDS = ["torchrun", pytest.param("horovod", marks=needs_horovod)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_processes_learn_as_one_does(
    setting: Setting, alone: Trained, tmp_path: Path, backend: str
) -> None:
    found = setting.train(tmp_path / "out", epochs=EPOCHS, accumulate=2, **together(backend=backend))
    assert alone[0].history[-1].loss < alone[0].history[0].loss / 2, "it learns"
    is_same(found, alone)
    assert (found[0].processes, alone[0].processes) == (2, 1)
    assert names(found) == names(alone) != set()
    assert not members()


def test_one_process_goes_on_from_what_two_with_a_share_each_kept(
    setting: Setting, alone: Trained, tmp_path: Path
) -> None:
    checkpoint, between = (
        FolderCheckpoint.make(tmp_path / "kept"),
        FolderCheckpoint.make(tmp_path / "between"),
    )

    def copy(folder: Path) -> None:
        if checkpoint.count == MIDDLE:
            between.keep(folder)

    checkpoint.kept = copy
    found = setting.train(tmp_path / "two", checkpoint, 0.0, epochs=EPOCHS, **together(2, "fsdp"))
    is_same(found, alone)
    assert found[0].processes == 2
    found = setting.train(tmp_path / "one", between, epochs=EPOCHS)
    is_same(found, alone)
    assert found[0].resumed_from == [MIDDLE]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_process_that_is_killed_ends_all_and_the_next_attempt_goes_on(
    setting: Setting, alone: Trained, tmp_path: Path, backend: str
) -> None:
    checkpoint = FolderCheckpoint.make(tmp_path / "kept")
    there: list[psutil.Process] = []

    def end(_: Path) -> None:
        if checkpoint.count == MIDDLE:
            raise Ended

    def kill(_: Path) -> None:
        if checkpoint.count == MIDDLE + 3:
            there.extend(members().values())
            members()[1].kill()

    checkpoint.kept = end
    with pytest.raises(Ended):
        setting.train(tmp_path / "one", checkpoint, 0.0, epochs=EPOCHS)
    checkpoint.kept = kill
    with pytest.raises(ProcessDied, match=r"process 1 of the 2 that train was killed by SIGKILL") as caught:
        setting.train(tmp_path / "two", checkpoint, 0.0, epochs=EPOCHS, **together(backend=backend))
    assert caught.value.problem()["code"] == "crashed"
    assert len(there) == 2
    assert not [process for process in there if process.is_running()]
    checkpoint.kept = lambda _: None
    found = setting.train(tmp_path / "three", checkpoint, epochs=EPOCHS)
    first, second = found[0].resumed_from
    assert first == MIDDLE < second
    is_same(found, alone)


def test_processes_without_a_loopback_are_refused(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "LOOPBACK", "192.0.2.1")  # an address of nobody (RFC 5737)
    with pytest.raises(InvalidParams, match="2 processes cannot train together here") as caught:
        setting.train(tmp_path / "out", epochs=1, **together())
    assert caught.value.param == "distributed.processes"


def test_auto_is_one_process_where_there_is_no_gpu(setting: Setting, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there are GPUs here")
    report, _, _ = setting.train(tmp_path / "out", epochs=1, distributed={"processes": "auto"})
    assert report.processes == 1
