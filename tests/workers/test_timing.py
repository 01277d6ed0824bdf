"""A candidate is timed on the job's target beside the model that the pass was given."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from app.errors import IncompatibleRecipe
from workers import runtimes, unmeasured
from workers.assignment import JobAssignment, SubjectFiles
from workers.model_handle import ModelHandle
from workers.onnx_files import tree_digest
from workers.pipeline import Attempt
from workers.steps import Steps
from workers.timing import OnTarget
from workers.torch.program import TorchModel, export, save_program

INPUTS = ({"name": "x", "dtype": "float32", "shape": ["batch", 256]},)
OUTPUTS = ({"name": "y", "dtype": "float32", "shape": ["batch", 8]},)


class Alone:
    """A supervisor that lends the device to whoever asks, and notes it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def tell(self, type_: str, **fields: Any) -> None:
        return None

    def ask(self, type_: str, **fields: Any) -> dict[str, Any]:
        self.asked.append(type_)
        return {}


def network(folder: Path, width: int) -> ModelHandle:
    folder.mkdir()
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(256, width), nn.ReLU(), nn.Linear(width, width), nn.Linear(width, 8))
    program = export(TorchModel(made.eval(), INPUTS, OUTPUTS))
    save_program(program, INPUTS, OUTPUTS, folder / "model.pt2")
    return ModelHandle(folder, "model.pt2", "torch-export", tree_digest(folder))


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    subject = SubjectFiles(
        id="mdl_1", digest="0" * 64, root=tmp_path, entry="model.pt2", format="torch-export", name="net", facts={},
        signature={"inputs": list(INPUTS), "outputs": list(OUTPUTS)},
    )  # fmt: skip
    assignment = JobAssignment(
        job_id="job_1", attempt=1, scratch=tmp_path, subject=subject, recipe={"passes": []}, evaluation=None, budget=None,
        target={"runtime": "onnxruntime-cpu", "params": {"threads": 1}}, options={}, measure_seconds=4.0, measure_launches=5, datasets={},
    )  # fmt: skip
    supervisor: Any = Alone()
    return Attempt(assignment, supervisor, Steps(supervisor, tmp_path))


@pytest.mark.alone
def test_what_is_measured_again_is_built_once(
    attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    built = []
    implementation = runtimes.registry.alone("onnxruntime-cpu")
    build = implementation.build
    monkeypatch.setattr(
        implementation, "build", lambda model, *rest: built.append(model.digest) or build(model, *rest)
    )
    timing = OnTarget(attempt, network(tmp_path / "wide", 64), "pass:x", tmp_path / "timing")
    for _ in range(2):
        timing.share(network(tmp_path / f"narrow{len(built)}", 32))

    assert len(built) == 2


@pytest.mark.alone
def test_a_narrower_network_takes_a_part_of_the_time(attempt: Attempt, tmp_path: Path):
    timing = OnTarget(attempt, network(tmp_path / "wide", 2048), "pass:x", tmp_path / "timing")
    same = timing.share(network(tmp_path / "twin", 2048))
    narrow = timing.share(network(tmp_path / "narrow", 256))

    assert narrow.low <= narrow.value <= narrow.high
    assert narrow.high < 0.5 < same.low
    assert attempt.supervisor.asked == ["acquire", "release"] * 2
    assert len(attempt.warnings) == 1, "generated data is told of once"


def test_the_key_of_a_step_that_times_holds_the_target(attempt: Attempt, tmp_path: Path):
    cause = OnTarget(attempt, network(tmp_path / "net", 64), "pass:x", tmp_path / "timing").cause

    assert cause["runtime"] == "onnxruntime-cpu"
    assert cause["params"]["threads"] == 1
    assert cause["hardware"]
    assert "onnxruntime" in cause["packages"]


def test_a_target_that_is_not_here_is_named(
    attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(unmeasured, "hindrance", lambda *_, **__: "there is no NVIDIA GPU")
    timing = OnTarget(attempt, network(tmp_path / "net", 64), "pass:x", tmp_path / "timing")

    with pytest.raises(IncompatibleRecipe, match=r"chooses by latency.*no NVIDIA GPU"):
        timing.share(network(tmp_path / "other", 32))
