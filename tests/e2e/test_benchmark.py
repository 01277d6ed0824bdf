"""Whole jobs of kind `benchmark`: scenarios and sweeps of a model and of a built engine."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.answers import ApiProblem
from tests.e2e.service import Service

WIDTH = 256
TARGET = {"runtime": "onnxruntime-cpu", "params": {"threads": 1}}


@pytest.fixture
def products(service: Service, tmp_path: Path) -> str:
    """Four products of [batch, 256]: a larger batch pays."""
    chance = np.random.default_rng(0)
    weights = [chance.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 16 for _ in range(4)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in ("x", "v4"))
    names = ["x", "v1", "v2", "v3", "v4"]
    nodes = [
        helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], name=f"product{i}") for i in range(4)
    ]
    graph = helper.make_graph(
        nodes, "g", [x], [y], [numpy_helper.from_array(one, f"w{i}") for i, one in enumerate(weights)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "products.onnx"))
    return service.model(tmp_path / "products.onnx")


def run(service: Service, subject: str, settings: dict[str, Any], **fields: Any) -> dict[str, Any]:
    body = {"kind": "benchmark", "subject": subject, "benchmark": settings, **fields}
    return service.client.wait(service.client.submit(body)["id"])


@pytest.mark.slow
def test_every_scenario_and_the_batch_curve_of_a_built_engine(
    service: Service, products: str, tmp_path: Path
) -> None:
    settings = {
        "scenarios": ["single-stream", "multi-stream", "offline", "server"],
        "batch": [1, 16],
        "streams": [2],
        "seconds": 0.2,
        "launches": 2,
        "p99_ms": 50,
        "energy": True,
    }
    engine = service.optimize(products, [])["result"]["artifacts"]["engine"]
    with pytest.raises(ApiProblem) as refused:
        run(service, engine, {}, targets=[{"runtime": "openvino-cpu"}])
    assert refused.value.problem["param"] == "targets[0].runtime"
    job = run(service, engine, settings)
    assert job["status"] == "succeeded", job["problem"]
    found = job["result"]["benchmark"]
    points = {(one["scenario"], one["batch"], one["streams"]): one for one in found["points"]}
    assert set(points) == {
        *(("single-stream", batch, 1) for batch in (1, 16)),
        ("multi-stream", 2, 2),
        *((scenario, batch, 2) for scenario in ("offline", "server") for batch in (1, 16)),
    }
    for point in points.values():
        assert point["problem"] is None
        assert point["threads"] == 1
    single = points["single-stream", 1, 1]
    assert single["latency"]["queries"] >= 100
    assert single["latency"]["p50_ms"] <= single["latency"]["p90_ms"]
    rate = {batch: points["offline", batch, 2]["throughput"]["value"] for batch in (1, 16)}
    assert rate[16] > 1.5 * rate[1], "sixteen rows share the reading of the weights"
    (knee,) = found["knees"]
    assert knee["streams"] == 2
    assert knee["batch"] == knee["best_batch"] == 16
    served = points["server", 1, 2]
    assert served["throughput"]["value"] > 0
    assert all(trial["utilization"] <= 1 for trial in served["server"])
    assert served["bound_ms"] == 50
    start = found["cold_start"]
    assert min(start["import_ms"], start["load_ms"], start["first_ms"]) > 0
    kept = service.client.download(job["result"]["artifacts"]["benchmark"], tmp_path / "benchmark.json")
    report = service.client.download(job["result"]["artifacts"]["report-json"], tmp_path / "report.json")
    assert json.loads(report.read_text())["benchmark"] == json.loads(kept.read_text())
    page = service.client.download(job["result"]["artifacts"]["report"], tmp_path / "report.html")
    assert 'id="scenarios"' in page.read_text(encoding="utf-8")
    assert json.loads(kept.read_text())["points"] == found["points"]


@pytest.mark.slow
def test_threads_and_streams_are_swept(service: Service, products: str) -> None:
    settings = {
        "scenarios": ["offline"], "threads": [1, 2], "streams": [1, 2], "seconds": 0.2, "launches": 2,
    }  # fmt: skip
    job = run(service, products, settings, targets=[TARGET])
    assert job["status"] == "succeeded", job["problem"]
    points = job["result"]["benchmark"]["points"]
    assert {(point["threads"], point["streams"]) for point in points} == {(1, 1), (1, 2), (2, 1), (2, 2)}


def test_a_point_that_fails_says_why_and_the_others_go_on(service: Service, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10),
        str(tmp_path / "fixed.onnx"),
    )
    settings = {
        "scenarios": ["single-stream", "multi-stream"], "batch": [2, 8], "streams": [5], "seconds": 0.1, "launches": 2,
    }  # fmt: skip
    job = run(service, service.model(tmp_path / "fixed.onnx"), settings, targets=[TARGET])
    assert job["status"] == "succeeded", job["problem"]
    good, bad, many = job["result"]["benchmark"]["points"]
    assert good["problem"] is many["problem"] is None
    assert (good["runs"], many["runs"]) == (1, 3), "five samples are three runs of two"
    assert any("a query of 5 samples is 3 runs" in note for note in job["result"]["benchmark"]["notes"])
    assert bad["status"] == "failed"
    assert "takes 2 samples, not 8" in bad["problem"]["detail"]
