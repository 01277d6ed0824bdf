"""Whole jobs of kind `profile` on PyTorch's own runtimes: they speak of layers as the model's structure does."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.client import Client
from app.embedded import Embedded
from app.profiles.schemas import Profile
from tests.e2e.service import Service
from tests.workers.profiling import torch_subjects
from tests.workers.training import networks

RUNTIMES = ("torch-eager", "torch-inductor-cpu")


@pytest.fixture(scope="module")
def pytorch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose worker serves PyTorch's runtimes; that of the other tests does not."""
    folder = tmp_path_factory.mktemp("pytorch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BURNISH_RUNTIMES", ",".join(RUNTIMES))
        with Embedded(folder / "data") as running, Client(running.url, running.api_key) as client:
            wait_until_served(client)
            yield Service(client, folder)


def wait_until_served(client: Client, seconds: float = 300) -> None:
    """The service is there once a worker serves anything; others of its runtimes try themselves still."""
    until = time.monotonic() + seconds
    wanted = {f"runtime.{name}" for name in RUNTIMES}
    while not wanted <= {queue for worker in client.workers() for queue in worker["queues"]}:
        assert time.monotonic() < until, "no worker serves all of PyTorch's runtimes"
        time.sleep(1)


def profiled(service: Service, model: str, **fields: Any) -> tuple[dict[str, Any], Profile]:
    body = {"kind": "profile", "subject": model, **fields}
    job = service.client.wait(service.client.submit(body)["id"])
    assert job["status"] == "succeeded", job["problem"]
    path = service.folder / f"{job['id']}.json"
    service.client.download(job["result"]["artifacts"]["profile"], path)
    return job, Profile.model_validate_json(path.read_bytes())


@pytest.mark.slow
@pytest.mark.timeout(900)  # each of the launches imports PyTorch
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_layers_are_those_of_the_model(pytorch: Service, tmp_path: Path, runtime: str) -> None:
    subject = torch_subjects.small(tmp_path / "small")
    model = pytorch.model(subject.original.path)
    target = {"runtime": runtime, "params": {"threads": 1}}
    asked = {"seconds": 1.0, "traces": ["chrome", "flamegraph"]}
    job, found = profiled(pytorch, model, targets=[target], profile=asked)

    listed = {layer["name"] for layer in pytorch.client.structure(model)["layers"]}
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
