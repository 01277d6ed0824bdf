"""Two workers, one of them with a GPU: an engine is built by the one and measured by the other. NumPy stands for the GPU."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.client import Client
from tests.e2e.service import Service
from tests.e2e.test_production import BURNISH, environment, first_key, is_ready, running, until
from tests.services import free_port
from workers.gpu import gpus

__all__ = ["environment"]
pytestmark = pytest.mark.skipif(bool(gpus()), reason="there is a GPU, and none to stand for")

STAND_IN = Path(__file__).parent / "gpu_stand_in"
BUILDING, MEASURING = "runtime.tensorrt-rtx", "runtime.tensorrt-rtx.sm89"


@pytest.fixture
def service(environment: dict[str, str], tmp_path: Path) -> Iterator[Service]:
    """An installation with an API and one worker, which looks at uploads and builds."""
    environment["BURNISH_RUNTIMES"] = "tensorrt-rtx"
    key = first_key(environment)
    port = free_port()
    with ExitStack() as stack:
        stack.enter_context(running(environment, "serve", "--port", str(port)))
        stack.enter_context(running(environment, "worker"))
        client = stack.enter_context(Client(f"http://127.0.0.1:{port}", key, patience_seconds=60))
        until(lambda: is_ready(port) and len(client.workers()) == 1)
        yield Service(client, tmp_path)


def with_gpu(environment: dict[str, str], lost: Path) -> dict[str, str]:
    """The variables of a worker that has a GPU, until `lost` is there."""
    return {
        **environment,
        "PATH": f"{STAND_IN}:{os.environ['PATH']}",
        "PYTHONPATH": str(STAND_IN),
        "NVIDIA_STAND_IN_LOST": str(lost),
    }


def network(path: Path) -> Path:
    """y = relu(x) + x / 2, its batch free."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64]) for name in "xy")
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="relu"),
        helper.make_node("Mul", ["x", "half"], ["b"], name="half_of_it"),
        helper.make_node("Add", ["a", "b"], ["y"], name="sum"),
    ]
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    graph = helper.make_graph(nodes, "g", [x], [y], [half])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10), str(path))
    return path


def job_of(service: Service, **fields: Any) -> str:
    model = service.model(network(service.folder / "sum.onnx"))
    body = {"kind": "optimize", "subject": model, "targets": ["tensorrt-rtx:sm89"], **fields}
    return str(service.client.submit({**body, "recipe": {"schema": 1, "passes": []}})["id"])


def test_built_by_one_worker_and_measured_by_another_after_a_third_lost_its_gpu(
    service: Service, environment: dict[str, str], tmp_path: Path
) -> None:
    lost = tmp_path / "lost"
    command = [*BURNISH, "worker", "--queues", MEASURING]
    worker = subprocess.Popen(command, env={**with_gpu(environment, lost), "BURNISH_HEARTBEAT_SECONDS": "1"})
    try:
        until(lambda: len(service.client.workers()) == 2)
        told = {tuple(each["queues"]): each for each in service.client.workers()}
        assert told[(MEASURING,)]["hardware"]["gpus"][0]["compute_capability"] == "8.9"
        builder = next(each for queues, each in told.items() if BUILDING in queues)
        assert builder["hardware"]["gpus"] == []
        job_id = job_of(service)
        until(lambda: service.client.show("jobs", job_id)["stage"] == "measuring")
        lost.touch()
        assert worker.wait(60) == 1, "what starts it anew sees that it must"
    finally:
        worker.kill()
        worker.wait()
    assert service.client.show("jobs", job_id)["status"] == "queued"
    assert len(service.client.workers()) == 1
    lost.unlink()
    with running(with_gpu(environment, lost), "worker", "--queues", MEASURING):
        job = service.client.wait(job_id)
    assert job["status"] == "succeeded", job["problem"]
    assert job["attempt"] == 3
    steps = {step["name"]: step["cached"] for step in job["steps"]}
    assert steps["build"]
    assert steps["build:baseline"]
    assert not steps["measuring"]
    result = job["result"]
    assert result["verification"] == "verified"
    assert result["comparison"]["speedup"] is not None
    assert result["optimized"]["latency"]["samples"] > 0
    manifest = json.loads((service.bundle(job) / "manifest.json").read_text())
    assert manifest["machine"]["gpu"]["name"] == "NVIDIA L40S"
    assert manifest["validity"]["compute_capability"] == "8.9"
