"""Whole jobs for XLA: on its CPU, measured; for TPUs, built ahead of time and unverified, as there is none here."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from app.answers import ApiProblem
from app.artifacts.accelerators import TPU, accelerators
from app.client import Client
from app.embedded import Embedded
from tests.e2e.service import Service, run_alone

SETTINGS = {"BURNISH_RUNTIMES": "xla-cpu,xla-tpu,torch-eager", "BURNISH_MEASURE_SECONDS": "1"}
ON_CPU = [{"runtime": "xla-cpu", "params": {"threads": 1}}]
pytestmark = pytest.mark.slow
NO_TPU = pytest.mark.skipif(TPU in accelerators(), reason="there is a TPU, on which engines are measured")


@pytest.fixture(scope="module")
def xla(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """`burnish up` whose worker tries XLA."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in SETTINGS.items():
            environment.setenv(name, value)
        with Embedded(tmp_path_factory.mktemp("xla") / "data") as running:
            yield running


@pytest.fixture
def service(xla: Embedded, tmp_path: Path) -> Iterator[Service]:
    """A client of it."""
    with Client(xla.url, xla.api_key) as client:
        yield Service(client, tmp_path)


@pytest.fixture
def model(service: Service, tmp_path: Path) -> str:
    """A small network with a free batch, as a `.pt2`."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.GELU(), torch.nn.Linear(64, 8)).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (torch.randn(4, 16),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "network.pt2")
    return service.model(tmp_path / "network.pt2")


def test_an_engine_for_cpus_is_measured_and_runs_alone(service: Service, model: str) -> None:
    job = service.optimize(model, targets=ON_CPU)

    assert job["status"] == "succeeded", job["problem"]
    result = job["result"]
    assert result["verification"] == "verified"
    assert result["optimized"]["latency"]["p50_ms"] > 0
    assert result["reference"]["latency"]["p50_ms"] > 0
    (output,) = result["comparison"]["fidelity"]["outputs"].values()
    assert output["max_abs"] < 1e-4
    assert any("fixed shapes" in sentence for sentence in result["comparison"]["why"])
    bundle = service.bundle(job)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert set(manifest["requires"]) == {"jax", "jaxlib", "flatbuffers", "numpy"}
    assert run_alone(bundle)["ok"]


@NO_TPU
def test_an_engine_for_tpus_leaves_unverified_where_that_is_allowed(service: Service, model: str) -> None:
    with pytest.raises(ApiProblem, match="no worker with a TPU could verify and measure") as refusal:
        service.optimize(model, targets=["xla-tpu"])
    assert refusal.value.code == "no_worker"

    job = service.optimize(model, targets=["xla-tpu"], options={"allow_unmeasured": True})

    assert job["status"] == "succeeded", job["problem"]
    result = job["result"]
    assert result["verification"] == "unverified"
    assert "there is no TPU" in result["unverified_reason"]
    assert result["optimized"]["latency"] is None
    bundle = service.bundle(job)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["validity"]["device"] == "tpu"
    assert manifest["engine"]["facts"]["platforms"] == ["tpu", "cpu"]
    said = subprocess.run(
        [sys.executable, "-I", str(bundle / "run.py"), "--json"],
        cwd="/", capture_output=True, text=True, timeout=120, env={}, check=False,
    )  # fmt: skip
    assert said.returncode == 2
    assert "JAX finds no TPU here" in json.loads(said.stdout)["error"]
    as_cpu = {**manifest, "target": {"runtime": "xla-cpu", "params": {}}}
    (bundle / "manifest.json").write_text(json.dumps(as_cpu))
    assert run_alone(bundle)["ok"], "the same file, on XLA's CPU"
