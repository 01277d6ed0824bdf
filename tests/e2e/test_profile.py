"""Whole jobs of kind `profile`: of a model, and two of them compared. Built engines are those of `test_regressions.py`."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.embedded import Embedded
from app.profiles.schemas import Profile
from tests.e2e.convolutions import CHANNELS, LAYERS, SIZE, explaining, network, run
from tests.e2e.service import Service

TARGET = {"runtime": "onnxruntime-cpu", "params": {"threads": 1}}


def read(service: Service, job: dict[str, Any]) -> Profile:
    path = service.client.download(
        job["result"]["artifacts"]["profile"], service.folder / f"{job['id']}.json"
    )
    return Profile.model_validate_json(path.read_bytes())


@pytest.fixture
def convolutions(service: Service, tmp_path: Path) -> str:
    return service.model(network(tmp_path / "convolutions.onnx", [3] * LAYERS))


def test_where_the_time_of_a_model_goes(service: Service, convolutions: str, tmp_path: Path) -> None:
    job = run(service, convolutions, targets=[TARGET])
    found = read(service, job)
    assert {name for layer in found.layers for name in layer.layers} >= {f"conv{n}" for n in range(LAYERS)}
    heavy = [layer for layer in found.layers if any(name.startswith("conv") for name in layer.layers)]
    assert sum(layer.share for layer in heavy) > 0.8
    assert sum(layer.flops or 0 for layer in heavy) == 2 * LAYERS * CHANNELS**2 * 9 * SIZE**2
    assert found.peaks is not None
    for layer in heavy:
        assert layer.floor_ms is not None
        assert layer.bound is not None
    assert found.gap is not None or abs(found.layers_ms / found.latency["p50_ms"] - 1) <= 0.1
    assert job["result"]["profile"]["slowest"][0]["mean_ms"] == max(layer.mean_ms for layer in found.layers)

    artifacts = {one["filename"]: one for one in service.client.job_artifacts(job["id"])}
    assert {"report.html", "report.md", "report.json"} <= set(artifacts)
    trace = service.client.download(job["result"]["artifacts"]["trace-chrome"], tmp_path / "trace.json")
    assert json.loads(trace.read_text())


def test_a_slower_layer_is_named_where_two_profiles_are_compared(
    embedded: Embedded, service: Service, convolutions: str, tmp_path: Path
) -> None:
    slower = service.model(network(tmp_path / "slower.onnx", [3, 3, 7, 3]))
    plain = {"seconds": 1.0, "advise": False}
    before, after = (run(service, one, targets=[TARGET], profile=plain) for one in (convolutions, slower))
    named = explaining(embedded, before, after)
    assert "conv2" in named[0]["layers"]
    assert named[0]["what"] == "slower"


@pytest.mark.slow
def test_advice_is_followed_by_its_number(service: Service, convolutions: str) -> None:
    job = run(service, convolutions, targets=[TARGET])
    found = read(service, job)
    assert [piece.number for piece in found.advice] == list(range(1, len(found.advice) + 1))
    assert "depthwise-separable" in {piece.rule for piece in found.advice}
    follow_up = next(piece for piece in found.advice if piece.request is not None)
    followed = service.client.wait(
        service.client.submit(
            {**follow_up.request, "advice": {"job": job["id"], "number": follow_up.number}}
        )["id"]
    )
    assert followed["status"] == "succeeded", followed["problem"]
    told = followed["result"]["advice"]
    assert told["predicted"] == follow_up.gain.model_dump() if follow_up.gain else told["predicted"] is None
    assert told["measured"]["low"] <= told["measured"]["value"] <= told["measured"]["high"]
