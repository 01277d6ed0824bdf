"""Passes that train, through a real worker and its sandbox, on scikit-learn's digits."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from tests.e2e.service import Service
from workers.torch.program import TorchModel, export
from workers.torch.to_onnx import program_to_onnx

SEEN, CHECKED = 1000, 1300  # trained on the first, chosen by the next, measured on the rest
Data = dict[str, str]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolutional network that has learned nothing, as ONNX: its measuring starts no process that imports PyTorch."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    inputs = ({"name": "images", "dtype": "float32", "shape": ["batch", 1, 8, 8]},)
    outputs = ({"name": "logits", "dtype": "float32", "shape": ["batch", 10]},)
    program = export(TorchModel(network.eval(), inputs, outputs))
    return program_to_onnx(program, inputs, outputs, tmp_path_factory.mktemp("training")).path


@pytest.fixture
def data(service: Service) -> Data:
    """Ids of training, validation and evaluation data."""
    digits = load_digits()
    images, labels = (digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.int64)
    parts = {
        "train": slice(0, SEEN), "validation": slice(SEEN, CHECKED), "evaluation": slice(CHECKED, None),
    }  # fmt: skip
    return {
        name: service.dataset(name, images=images[part], labels=labels[part]) for name, part in parts.items()
    }


def trained(service: Service, model: str, data: Data, *steps: dict[str, Any]) -> dict[str, Any]:
    job = service.optimize(model, list(steps), evaluation={"dataset": data["evaluation"], "metric": "top1"})
    assert job["status"] == "succeeded", job["problem"]
    return job


def learning(name: str, data: Data, **params: Any) -> dict[str, Any]:
    inputs = {"train": data["train"], "validation": data["validation"]}
    return {"pass": name, "params": {"batch_size": 100, **params}, "inputs": inputs}


def test_a_network_learns_and_is_quantized_and_nothing_is_trained_twice(
    service: Service, untrained: Path, data: Data
):
    model = service.model(untrained)
    finetune = learning("finetune", data, epochs=10, metric="top1", learning_rate=5e-3)
    quantize = {"pass": "quantize-static", "inputs": {"calibration": data["train"]}}
    job = trained(service, model, data, finetune, quantize)
    assert job["result"]["baseline"]["accuracy"]["value"] < 0.3
    assert job["result"]["optimized"]["accuracy"]["value"] > 0.8

    artifacts = {one["kind"]: one for one in service.client.job_artifacts(job["id"])}
    assert {one["role"] for one in artifacts["training"]["inputs"]} >= {"subject", "train", "validation"}
    packed = service.folder / "training.zip"
    service.client.download(artifacts["training"]["id"], packed)
    with zipfile.ZipFile(packed) as archive:
        names = archive.namelist()
        (scalars,) = [name for name in names if name.endswith("scalars.jsonl")]
        said = [json.loads(line) for line in archive.read(scalars).splitlines()]
    assert any("tfevents" in name for name in names)
    assert said

    again = trained(service, model, data, finetune)
    assert {step["name"]: step["cached"] for step in again["steps"]}["pass:finetune"] is True
    assert {one["kind"] for one in service.client.job_artifacts(again["id"])} >= {"engine", "training"}
    assert again["result"]["optimized"]["accuracy"]["value"] > 0.8


@pytest.mark.slow  # in short: tests/workers/training/test_sandboxed.py
def test_two_processes_train_in_the_sandbox(service: Service, untrained: Path, data: Data):
    step = learning("finetune", data, epochs=8, learning_rate=5e-3, distributed={"processes": 2})
    job = trained(service, service.model(untrained), data, step)
    assert job["result"]["optimized"]["accuracy"]["value"] > 0.85


def test_labels_that_the_network_cannot_give_are_named_before_training(
    service: Service, untrained: Path, data: Data
):
    images = np.zeros((200, 1, 8, 8), np.float32)
    labels = np.arange(200) % 10
    labels[137] = 11
    wrong = service.dataset("wrong", images=images, labels=labels)
    job = service.optimize(
        service.model(untrained),
        [{"pass": "finetune", "params": {"epochs": 1}, "inputs": {"train": wrong}}],
    )
    assert job["status"] == "failed"
    problem = job["problem"]
    assert problem["code"] == "invalid_dataset"
    assert "137" in problem["detail"]
    assert problem["hint"]
