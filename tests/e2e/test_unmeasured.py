"""Whole jobs whose engine is built here and cannot run here: TensorRT for RTX, without a GPU."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.answers import ApiProblem
from app.client import Client
from app.embedded import Embedded
from tests.e2e.service import Service
from workers.gpu import gpus

pytestmark = pytest.mark.skipif(bool(gpus()), reason="there is a GPU, on which engines are measured")

TARGET = ["tensorrt-rtx:sm89"]
ALLOWED = {"allow_unmeasured": True}


@pytest.fixture(scope="module")
def rtx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """`burnish up` whose worker tries TensorRT for RTX."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BURNISH_RUNTIMES", "tensorrt-rtx,onnxruntime-cpu")
        with Embedded(tmp_path_factory.mktemp("rtx") / "data") as running:
            yield running


@pytest.fixture
def service(rtx: Embedded, tmp_path: Path) -> Iterator[Service]:
    """A client of it."""
    with Client(rtx.url, rtx.api_key) as client:
        yield Service(client, tmp_path)


@pytest.fixture
def model(service: Service, tmp_path: Path) -> str:
    """Two convolutions with a residual, its batch free."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal((8, 8, 3, 3)).astype(np.float32) / 8, name)
        for name in ("w1", "w2")
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8, 8, 8]) for name in "xy")
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "x"], ["y"], name="residual"),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.save(made, str(tmp_path / "residual.onnx"))
    return service.model(tmp_path / "residual.onnx")


def test_a_worker_without_a_gpu_offers_it_for_building(service: Service) -> None:
    workers = [one for one in service.client.workers() if "tensorrt-rtx" in one["runtimes"]]
    assert workers
    assert all(worker["hardware"]["gpus"] == [] for worker in workers)


def test_it_is_refused_unless_allowed(service: Service, model: str) -> None:
    with pytest.raises(ApiProblem, match="verify and measure") as refusal:
        service.optimize(model, [], targets=TARGET)
    assert refusal.value.code == "no_worker"


def test_the_answer_before_says_parsed(service: Service, model: str) -> None:
    body = {"kind": "optimize", "subject": model, "targets": TARGET, "options": ALLOWED}
    said = service.client.validate(model, body)
    (target,) = said["targets"]
    assert target["coverage"]["evidence"] == "parsed"
    assert target["coverage"]["share"] == 1.0
    assert target["problem"] is None


def test_the_engine_is_unverified_and_says_why(service: Service, model: str) -> None:
    data = np.random.default_rng(1).standard_normal((32, 8, 8, 8)).astype(np.float32)
    calibration = {"calibration": service.dataset("images", x=data)}
    static = {
        "pass": "quantize-static",
        "params": {"form": "tensorrt", "rest": "fp16"},
        "inputs": calibration,
    }
    job = service.optimize(model, [static], targets=TARGET, options=ALLOWED)

    assert job["status"] == "succeeded", job["problem"]
    result = job["result"]
    assert result["verification"] == "unverified"
    assert "no NVIDIA GPU" in result["unverified_reason"]
    assert result["comparison"]["speedup"] is None
    assert result["optimized"]["latency"] is None
    assert result["optimized"]["size_bytes"] > 0
    assert result["comparison"]["model_fidelity"]["outputs"]["y"]["sqnr_db"] > 30
    assert "measuring" not in {step["name"] for step in job["steps"]}

    bundle = service.bundle(job)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["result"]["verification"] == "unverified"
    assert manifest["validity"]["compute_capability"] == "8.9"
    assert manifest["signature"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": [None, 8, 8, 8]}]
    assert manifest["engine"]["facts"]["compute"] == {"int8": 2}
    assert "unverified" in (bundle / "README.md").read_text()
    said = run_where_there_is_no_gpu(bundle)
    assert not said["ok"]
    assert "driver" in said["error"]


def test_without_a_recipe_the_preset_chooses_half_precision(service: Service, model: str) -> None:
    job = service.optimize(model, targets=TARGET, options=ALLOWED)
    assert job["status"] == "succeeded", job["problem"]
    assert [step["pass"] for step in job["recipe"]["passes"]] == ["simplify", "to-fp16"]
    assert job["result"]["verification"] == "unverified"


def test_a_profile_that_does_not_fit_is_named(service: Service, model: str) -> None:
    wrong = {"min": [1, 8, 8, 8], "opt": [1, 8, 9, 8], "max": [1, 8, 9, 8]}
    target = {"runtime": "tensorrt-rtx", "params": {"profiles": [{"inputs": {"x": wrong}}]}}
    job = service.optimize(model, [], targets=[target], options=ALLOWED)
    assert job["status"] == "failed"
    assert job["problem"]["code"] == "invalid_params"
    assert job["problem"]["param"] == "profiles[0].inputs.x.opt[2]"


def run_where_there_is_no_gpu(bundle: Path) -> dict[str, Any]:
    """What `run.py` says, which needs a GPU."""
    done = subprocess.run(
        [sys.executable, "-I", str(bundle / "run.py"), "--json"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    said: dict[str, Any] = json.loads(done.stdout)
    return said
