"""Advice on a real network, followed by jobs: what they measure lies where the profile said."""

from typing import Any

import pytest

from app.profiles.schemas import Profile
from tests.e2e.service import Service
from tests.workers.profiling import subjects

TARGET = {"runtime": "onnxruntime-cpu", "params": {"threads": 1}}
FOLLOWED = ("quantize", "depthwise-separable", "prune-channels")


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1800)
def test_three_pieces_of_advice_bring_what_they_promise(service: Service) -> None:
    model = service.model(subjects.resnet(service.folder / "resnet").onnx.path)
    client = service.client
    profiled = client.wait(client.submit({"kind": "profile", "subject": model, "targets": [TARGET]})["id"])
    assert profiled["status"] == "succeeded", profiled["problem"]
    path = client.download(profiled["result"]["artifacts"]["profile"], service.folder / "profile.json")
    pieces = {piece.rule: piece for piece in Profile.model_validate_json(path.read_bytes()).advice}
    assert pieces.keys() >= set(FOLLOWED)
    outcomes = {}
    for rule in FOLLOWED:
        piece = pieces[rule]
        assert piece.request is not None
        body: dict[str, Any] = {**piece.request, "advice": {"job": profiled["id"], "number": piece.number}}
        job = client.wait(client.submit(body)["id"])
        assert job["status"] == "succeeded", job["problem"]
        outcomes[rule] = job["result"]["advice"]
    assert all(told["as_predicted"] for told in outcomes.values()), outcomes
    assert all(told["measured"]["low"] > 1.0 for told in outcomes.values()), outcomes
