"""What is known of a model on a runtime before anything is built: told by `validate`, and held against a submit."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.app.api.support import assert_problem
from tests.app.jobs.factories import RUNTIME, make_model, offer, optimize

KNOWN = {
    "operators": 4,
    "share": 1.0,
    "unsupported": [],
    "unsupported_count": 0,
    "evidence": "supported",
    "versions": {"onnxruntime": "1.32.0"},
}
ODD = {"node": "n7", "operator": "Frobnicate", "reason": "no operator org.example:Frobnicate is known"}
PARTLY = {**KNOWN, "share": 0.75, "unsupported": [ODD], "unsupported_count": 1}


@pytest.fixture(autouse=True)
def worker(api: TestClient) -> None:
    """Somebody offers the runtime."""
    offer(RUNTIME)


def validated(api: TestClient, model: str, **fields: Any) -> dict[str, Any]:
    answer = api.post(f"/v1/models/{model}/validate", json={**optimize(model), **fields})
    assert answer.status_code == 200, answer.text
    (target,) = answer.json()["targets"]
    return dict(target)


def test_coverage_is_told(api: TestClient) -> None:
    target = validated(api, make_model(facts={"coverage": {RUNTIME: KNOWN}}))
    assert target["coverage"] == KNOWN
    assert target["problem"] is None


def test_nodes_that_a_runtime_cannot_run_are_named_at_submit(api: TestClient) -> None:
    model = make_model(facts={"coverage": {RUNTIME: PARTLY}})
    target = validated(api, model)
    assert target["coverage"]["share"] == 0.75
    assert target["problem"]["code"] == "unsupported_operator"
    refused = api.post("/v1/jobs", json=optimize(model))
    assert_problem(refused, 422, "unsupported_operator")
    problem = refused.json()
    assert (problem["node"], problem["param"]) == ("n7", "targets[0].runtime")
    assert "1 of the model's 4 nodes" in problem["detail"]
    assert problem["errors"] == [{"node": "n7", "operator": "Frobnicate", "detail": ODD["reason"]}]


@pytest.mark.parametrize("coverage", [{}, {RUNTIME: {"problem": {"code": "crashed", "detail": "it ended"}}}])
def test_what_a_runtime_could_not_tell_stops_nobody(api: TestClient, coverage: dict[str, Any]) -> None:
    model = make_model(facts={"coverage": coverage})
    assert validated(api, model)["coverage"] is None
    assert api.post("/v1/jobs", json=optimize(model)).status_code == 202


def test_conversions_stand_among_the_steps(api: TestClient) -> None:
    model = make_model(format="keras", facts={"conversions": {"onnx": {"checked": True, "outputs": {}}}})
    recipe = {"schema": 1, "passes": [{"pass": "simplify"}]}
    assert [step["name"] for step in validated(api, model, recipe=recipe)["steps"]] == [
        "convert:onnx",
        "simplify",
    ]
    assert [step["name"] for step in validated(api, model, recipe={"schema": 1, "passes": []})["steps"]] == [
        "convert:onnx"
    ]


def test_a_conversion_that_failed_when_it_was_tried_is_told(api: TestClient) -> None:
    problem = {
        "code": "unsupported_operator",
        "detail": "aten::odd has no ONNX form",
        "hint": "use another layer",
    }
    model = make_model(format="keras", facts={"conversions": {"onnx": {"problem": problem}}})
    target = validated(api, model)
    assert target["problem"]["code"] == "incompatible_recipe"
    assert "aten::odd" in target["problem"]["detail"]
