"""Engines that no worker could measure are refused before anything is queued, unless they may leave unverified."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db import transaction
from app.fleet import service as fleet
from app.ids import new_id
from tests.app.api.support import assert_problem
from tests.app.jobs.factories import make_model, offer, optimize

RTX = "tensorrt-rtx"
UNVERIFIED = {"options": {"allow_unmeasured": True}}


def with_gpu(capability: str) -> None:
    """A live worker with one GPU."""
    with transaction() as session:
        fleet.register(
            session,
            worker_id=new_id("wrk"),
            host="host-gpu",
            pid=1,
            version="0",
            queues=[f"runtime.{RTX}"],
            runtimes={RTX: {"version": "1"}},
            hardware={"gpus": [{"name": "a card", "compute_capability": capability}]},
        )


def submit(api: TestClient, target: str, **fields: Any) -> Any:
    return api.post(
        "/v1/jobs", json={**optimize(make_model()), "targets": [target], "recipe": NOTHING, **fields}
    )


NOTHING = {"schema": 1, "passes": []}


def test_without_a_gpu_anywhere_it_is_refused(api: TestClient) -> None:
    offer(RTX)
    refused = submit(api, RTX)
    assert_problem(refused, 409, "no_worker")
    assert refused.json()["param"] == "options.allow_unmeasured"
    assert "allow-unmeasured" in refused.json()["hint"]


def test_it_is_taken_where_the_request_allows_that(api: TestClient) -> None:
    offer(RTX)
    assert submit(api, f"{RTX}:sm89", **UNVERIFIED).status_code == 202


@pytest.mark.parametrize(("capability", "status"), [("8.9", 202), ("9.0", 409)])
def test_a_worker_with_such_a_gpu_is_enough(api: TestClient, capability: str, status: int) -> None:
    offer(RTX)
    with_gpu(capability)
    assert submit(api, f"{RTX}:sm86+sm89").status_code == status


def test_the_preflight_answer_says_so(api: TestClient) -> None:
    offer(RTX)
    model = make_model()
    body = {**optimize(model), "targets": [RTX], "recipe": NOTHING}
    (target,) = api.post(f"/v1/models/{model}/validate", json=body).json()["targets"]
    assert target["problem"]["code"] == "no_worker"
    assert target["problem"]["param"] == "options.allow_unmeasured"


def test_other_runtimes_are_not_asked(api: TestClient) -> None:
    offer("onnxruntime-cpu")
    assert submit(api, "onnxruntime-cpu").status_code == 202
