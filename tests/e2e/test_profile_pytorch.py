"""Whole jobs of kind `profile` on PyTorch's own runtimes: they speak of layers as the model's structure does."""

import time
from pathlib import Path
from typing import Any

import pytest

from app.profiles.schemas import Profile
from tests.e2e.service import Service
from tests.workers.profiling import torch_subjects
from tests.workers.training import networks


def wait_until_served(service: Service, runtime: str, seconds: float = 180) -> None:
    """The service is there once a worker serves anything; others of its runtimes try themselves still."""
    until = time.monotonic() + seconds
    while not any(f"runtime.{runtime}" in worker["queues"] for worker in service.client.workers()):
        assert time.monotonic() < until, f"no worker serves {runtime}"
        time.sleep(1)


def profiled(service: Service, model: str, **fields: Any) -> tuple[dict[str, Any], Profile]:
    body = {"kind": "profile", "subject": model, **fields}
    job = service.client.wait(service.client.submit(body)["id"])
    assert job["status"] == "succeeded", job["problem"]
    path = service.folder / f"{job['id']}.json"
    service.client.download(job["result"]["artifacts"]["profile"], path)
    return job, Profile.model_validate_json(path.read_bytes())


@pytest.mark.parametrize("runtime", ["torch-eager", "torch-inductor-cpu"])
def test_layers_are_those_of_the_model(service: Service, tmp_path: Path, runtime: str) -> None:
    wait_until_served(service, runtime)
    subject = torch_subjects.small(tmp_path / "small")
    model = service.model(subject.original.path)
    target = {"runtime": runtime, "params": {"threads": 1}}
    asked = {"seconds": 1.0, "traces": ["chrome", "flamegraph"]}
    job, found = profiled(service, model, targets=[target], profile=asked)

    listed = {layer["name"] for layer in service.client.structure(model)["layers"]}
    assert {"stem.0", "stem.1", "block.0", "block.1", "head"} == listed
    named = [name for layer in found.layers for name in layer.layers]
    assert listed <= set(named)
    assert all(named.count(name) == 1 for name in listed)
    products = [layer for layer in found.layers if set(layer.layers) & {"stem.0", "block.0", "head"}]
    assert all(layer.flops and layer.floor_ms is not None for layer in products)
    assert sum(layer.share for layer in found.layers) == pytest.approx(1)
    assert ("build:instrumented" in {step["name"] for step in job["steps"]}) == (
        runtime == "torch-inductor-cpu"
    )
    traces = {name for name in job["result"]["artifacts"] if name.startswith("trace-")}
    assert traces == {"trace-chrome", "trace-flamegraph", "trace-runtime"}


def test_steps_of_a_training_are_profiled(service: Service, tmp_path: Path) -> None:
    data = networks.digits().train.first(256)
    path = networks.write_program(networks.untrained(networks.Small), data, tmp_path / "model.pt2")
    train = service.dataset("digits", **data.inputs, labels=data.labels)
    step = {"pass": "finetune", "params": {"batch_size": 32}, "inputs": {"train": train}}
    asked = {"seconds": 1.0, "of": "training", "traces": ["tensorboard"]}
    job, found = profiled(
        service,
        service.model(path),
        targets=[{"runtime": "onnxruntime-cpu"}],
        recipe={"schema": 1, "passes": [step]},
        profile=asked,
    )

    assert (found.of, found.batch) == ("training", 32)
    assert [phase.name for phase in found.phases] == [
        "loader", "forward", "loss", "backward", "optimizer", "other"
    ]  # fmt: skip
    assert sum(phase.share for phase in found.phases) == pytest.approx(1)
    assert found.layers_ms == pytest.approx(sum(phase.mean_ms for phase in found.phases))
    assert {"features.0.0", "head"} <= {name for layer in found.layers for name in layer.layers}
    assert any("of the time waited for samples" in note for note in found.notes)
    traces = {name for name in job["result"]["artifacts"] if name.startswith("trace-")}
    assert traces == {"trace-tensorboard", "trace-runtime"}
