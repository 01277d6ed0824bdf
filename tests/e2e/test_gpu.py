"""Jobs for NVIDIA GPUs through a real worker on one: each runtime that its self-test finds there."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from app.client import Client
from app.embedded import Embedded
from tests.e2e.service import Service
from workers.gpu import gpus
from workers.torch.program import TorchModel, export, save_program

RUNTIMES = ["torch-eager-cuda", "torch-inductor-cuda", "onnxruntime-cuda", "onnxruntime-tensorrt"]
pytestmark = [pytest.mark.skipif(not gpus(), reason="there is no NVIDIA GPU"), pytest.mark.alone]


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """`burnish up` whose worker offers what runs on GPUs."""
    before = os.environ["BURNISH_RUNTIMES"]
    os.environ["BURNISH_RUNTIMES"] = ",".join(RUNTIMES)
    try:
        with Embedded(tmp_path_factory.mktemp("gpu") / "data") as running:
            yield running
    finally:
        os.environ["BURNISH_RUNTIMES"] = before


@pytest.fixture
def service(on_gpu: Embedded, tmp_path: Path) -> Iterator[Service]:
    """A client of it."""
    with Client(on_gpu.url, on_gpu.api_key) as client:
        yield Service(client, tmp_path)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A convolutional network as a `.pt2`, trained on scikit-learn's digits, and digits that it has not seen."""
    torch.manual_seed(0)
    data = load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)
    labels = data.target.astype(np.int64)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    seen, answers = torch.from_numpy(images[:1200]), torch.from_numpy(labels[:1200])
    for _ in range(60):
        chosen = torch.randperm(1200)[:256]
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(seen[chosen]), answers[chosen]).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("digits") / "digits.pt2"
    inputs = ({"name": "images", "dtype": "float32", "shape": ["batch", 1, 8, 8]},)
    outputs = ({"name": "logits", "dtype": "float32", "shape": ["batch", 10]},)
    save_program(export(TorchModel(network.eval(), inputs, outputs)), inputs, outputs, path)
    return path, images[1200:], labels[1200:]


def served(service: Service) -> dict:
    """What `GET /v1/workers` says of the worker that takes jobs."""
    return max(service.client.workers(), key=lambda worker: len(worker["queues"]))


def test_a_worker_tells_of_its_gpu(service: Service):
    (gpu, *_) = served(service)["hardware"]["gpus"]
    assert gpu["name"].startswith("NVIDIA")
    assert float(gpu["compute_capability"]) >= 5
    assert int(gpu["memory_mib"]) > 1000
    assert "torch-eager-cuda" in served(service)["runtimes"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_network_is_faster_in_half_precision_and_as_exact(
    runtime: str, service: Service, digits: tuple[Path, np.ndarray, np.ndarray]
):
    if runtime not in served(service)["runtimes"]:
        pytest.skip(f"the self-test of {runtime} did not pass on this machine")
    path, images, labels = digits
    unseen = service.dataset("digits", images=images, labels=labels)

    job = service.optimize(
        service.model(path),
        targets=[{"runtime": runtime}],
        evaluation={"dataset": unseen, "metric": "top1"},
        budget={"max_drop": 0.02},
    )
    assert job["status"] == "succeeded", job["problem"]
    result = job["result"]
    print(json.dumps(result["comparison"], indent=1))  # noqa: T201 - shown with -s: what a card did
    print(json.dumps({side: result[side] for side in ("reference", "baseline", "optimized")}))  # noqa: T201
    assert result["verification"] == "verified"
    assert result["baseline"]["accuracy"]["value"] > 0.9
    assert result["comparison"]["within_budget"] is True
    assert result["comparison"]["fidelity"]["outputs"]["logits"]["sqnr_db"] > 40
    assert result["comparison"]["speedup"]["verdict"] in ("faster", "no_difference", "slower")
    assert result["comparison"]["speedup_over_reference"]["value"] > 0
    assert any(step["name"].startswith("pass:") for step in job["steps"])
    for side in ("reference", "baseline", "optimized"):
        assert result[side]["peak_gpu_memory_bytes"] > 100 << 20  # a context takes that alone
    assert not [text for text in result["comparison"]["why"] if "on the CPU" in text]

    bundle = service.bundle(job)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["machine"]["gpu"]["name"].startswith("NVIDIA")
    assert manifest["validity"]["device"] == "cuda"
    checked = subprocess.run(
        [sys.executable, str(bundle / "run.py"), "--json"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr + checked.stdout
    assert json.loads(checked.stdout.splitlines()[-1])["ok"]


def test_a_network_trains_on_the_gpu_of_its_job(
    service: Service, digits: tuple[Path, np.ndarray, np.ndarray]
):
    path, images, labels = digits
    data = {
        "train": service.dataset("train", images=images[:400], labels=labels[:400]),
        "evaluation": service.dataset("evaluation", images=images[400:], labels=labels[400:]),
    }
    params = {"epochs": 5, "batch_size": 50, "precision": "fp16", "learning_rate": 5e-4}
    job = service.optimize(
        service.model(path),
        [{"pass": "finetune", "params": params, "inputs": {"train": data["train"]}}],
        targets=[{"runtime": "torch-eager-cuda"}],
        evaluation={"dataset": data["evaluation"], "metric": "top1"},
    )
    assert job["status"] == "succeeded", job["problem"]
    result = job["result"]
    print(json.dumps({side: result[side] for side in ("baseline", "optimized")}))  # noqa: T201
    print(json.dumps(job["steps"]))  # noqa: T201
    assert result["optimized"]["accuracy"]["value"] >= result["baseline"]["accuracy"]["value"] - 0.02
    assert {one["kind"] for one in service.client.job_artifacts(job["id"])} >= {"engine", "training"}


def test_a_cuda_graph_needs_fixed_sizes_and_is_faster_with_them(
    service: Service, digits: tuple[Path, np.ndarray, np.ndarray]
):
    if "onnxruntime-cuda" not in served(service)["runtimes"]:
        pytest.skip("ONNX Runtime has no CUDA provider on this machine")
    path, images, _ = digits
    model = service.model(path)
    targets = [{"runtime": "onnxruntime-cuda", "params": {"cuda_graph": True}}]
    free = service.optimize(model, [{"pass": "simplify"}], targets=targets)
    assert free["status"] == "failed"
    assert free["problem"]["code"] == "invalid_params"
    assert "set-shapes" in free["problem"]["hint"]

    passes = [
        {"pass": "set-shapes", "params": {"dimensions": {"batch": 1}}},
        {"pass": "simplify"},
        {"pass": "to-fp16"},
    ]
    data = service.dataset("unlabelled", images=images[:32])
    fixed = service.optimize(
        model, passes, targets=targets, evaluation={"dataset": data, "metric": "snr", "output": "logits"}
    )
    assert fixed["status"] == "succeeded", fixed["problem"]
    print(json.dumps(fixed["result"]["comparison"]))  # noqa: T201
    assert fixed["result"]["comparison"]["fidelity"]["outputs"]["logits"]["sqnr_db"] > 40
