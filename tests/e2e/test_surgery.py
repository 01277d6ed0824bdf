"""Cheaper layers in the place of a network's own and training after them, through a real worker: from ONNX to an engine."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.e2e.service import Service, run_alone
from tests.workers.engines.networks import Deep
from tests.workers.training.networks import digits, fit
from workers.torch.program import TorchModel, export
from workers.torch.to_onnx import program_to_onnx

SURGERY: dict[str, dict[str, Any]] = {"depthwise-separable": {}, "low-rank": {"rank": 8}}
TRAINED = {"epochs": 3, "learning_rate": 3e-3, "batch_size": 100}
MOST_LOST = 0.04  # of the accuracy


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolutional network that knows digits, as ONNX."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    fit(network, digits().train, epochs=8)
    inputs = ({"name": "images", "dtype": "float32", "shape": ["batch", 1, 8, 8]},)
    outputs = ({"name": "logits", "dtype": "float32", "shape": ["batch", 10]},)
    program = export(TorchModel(network, inputs, outputs))
    return program_to_onnx(program, inputs, outputs, tmp_path_factory.mktemp("digits")).path


@pytest.mark.parametrize(
    ("surgery", "training"),
    [
        pytest.param("low-rank", "distill", marks=pytest.mark.slow),
        pytest.param("low-rank", "finetune", marks=pytest.mark.slow),
        pytest.param("depthwise-separable", "distill", marks=pytest.mark.slow),
        pytest.param("depthwise-separable", "finetune", marks=pytest.mark.slow),
    ],
)
def test_smaller_layers_are_trained_and_become_an_engine(
    surgery: str, training: str, service: Service, model: Path
):
    known, held = digits().train, digits().held
    train = service.dataset("train", images=known.inputs["images"], labels=known.labels)
    evaluation = service.dataset("evaluation", images=held.inputs["images"], labels=held.labels)
    recipe = [
        {"pass": surgery, "params": SURGERY[surgery], "inputs": {"calibration": train}},
        {"pass": training, "params": TRAINED, "inputs": {"train": train}},
    ]
    job = service.optimize(service.model(model), recipe, evaluation={"dataset": evaluation, "metric": "top1"})

    assert job["status"] == "succeeded", job["problem"]
    steps = [
        "convert:torch-export",
        f"pass:{surgery}",
        f"pass:{training}",
        "convert:onnx",
        "build:baseline",
        "build",
    ]
    assert [step["name"] for step in job["steps"]][: len(steps)] == steps
    before, after = (job["result"][side] for side in ("baseline", "optimized"))
    assert after["size_bytes"] < before["size_bytes"]
    assert after["accuracy"]["value"] > before["accuracy"]["value"] - MOST_LOST
    assert job["result"]["verification"] == "verified"
    assert run_alone(service.bundle(job))["ok"]


@pytest.mark.slow
def test_fewer_branches_are_trained_and_become_an_engine(service: Service, tmp_path: Path):
    torch.manual_seed(0)
    network = Deep()
    fit(network, digits().train, epochs=8)
    inputs = ({"name": "images", "dtype": "float32", "shape": ["batch", 1, 8, 8]},)
    outputs = ({"name": "logits", "dtype": "float32", "shape": ["batch", 10]},)
    program = export(TorchModel(network.eval(), inputs, outputs))
    model = service.model(program_to_onnx(program, inputs, outputs, tmp_path).path)
    known, held = digits().train, digits().held
    train = {"train": service.dataset("train", images=known.inputs["images"], labels=known.labels)}
    evaluation = service.dataset("evaluation", images=held.inputs["images"], labels=held.labels)
    recipe = [
        {"pass": "shrink-depth", "params": {"to": 0.6}, "inputs": train},
        {"pass": "distill", "params": TRAINED, "inputs": train},
    ]
    job = service.optimize(model, recipe, evaluation={"dataset": evaluation, "metric": "top1"})

    assert job["status"] == "succeeded", job["problem"]
    before, after = (job["result"][side] for side in ("baseline", "optimized"))
    assert after["size_bytes"] < before["size_bytes"]
    assert after["accuracy"]["value"] > before["accuracy"]["value"] - MOST_LOST
    assert job["result"]["verification"] == "verified"
