"""Jobs of kind `profile` and `benchmark`: what is refused before anything is queued, what is filled in, and advice that is followed."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db import transaction
from app.fleet.tables import Worker
from app.jobs.status import JobStatus
from app.jobs.tables import Job
from tests.app.api.support import assert_problem, bearer, make_key, make_project
from tests.app.jobs.factories import RUNTIME, make_artifact, make_dataset, make_model, offer, optimize
from tests.app.users.routes import make_job
from workers.followed import followed

LATENCY = {"p50_ms": 10.0, "low_ms": 9.5, "high_ms": 10.5, "launches": 5, "samples": 100}
GAIN = {"value": 2.0, "low": 1.5, "high": 3.0}
ENGINE = {
    "schema": 1,
    "model": {"name": "digits"},
    "signature": {"inputs": [{"name": "image", "dtype": "float32", "shape": [None, 1, 8, 8]}], "outputs": []},
    "target": {"runtime": RUNTIME, "params": {"threads": 2}},
    "engine": {"entry": "engine/model.onnx", "facts": {}},
}


def look(api: TestClient, kind: str, subject: str, **fields: Any) -> Any:
    body = {"kind": kind, "subject": subject, "targets": [RUNTIME], **fields}
    return api.post("/v1/jobs", json=body)


@pytest.fixture
def engine() -> str:
    offer(RUNTIME)
    return make_artifact(make_job(), manifest=ENGINE)


@pytest.fixture
def advised() -> str:
    """A finished profile that gave one piece of advice."""
    offer(RUNTIME)
    id_ = make_job()
    piece = {"number": 1, "rule": "quantize", "title": "quantize it", "gain": GAIN}
    with transaction() as session:
        job = session.get_one(Job, id_)
        job.kind, job.status = "profile", JobStatus.SUCCEEDED
        job.request = {**job.request, "recipe": {"schema": 1, "passes": []}}
        job.result = {
            "profile": {"advice": [piece], "latency": LATENCY, "target": {"runtime": RUNTIME, "params": {}}}
        }
    return id_


def test_a_model_is_profiled_as_it_is(api: TestClient) -> None:
    offer(RUNTIME)
    job = look(api, "profile", make_model()).json()
    assert job["kind"] == "profile"
    assert job["recipe"]["passes"] == []
    assert job["profile"] == {
        "of": "inference",
        "batch": None,
        "seconds": 5.0,
        "traces": ["chrome"],
        "advise": True,
    }
    assert (job["benchmark"], job["evaluation"], job["budget"], job["data"]) == (None, None, None, None)
    assert api.get(f"/v1/jobs/{job['id']}").json() == job
    assert [one["id"] for one in api.get("/v1/jobs?kind=profile").json()["items"]] == [job["id"]]
    assert api.get("/v1/jobs?kind=benchmark").json()["items"] == []


def test_an_engine_knows_its_target(api: TestClient, engine: str) -> None:
    offer(RUNTIME)
    job = look(api, "benchmark", engine, targets=[]).json()
    assert job["targets"] == [{"runtime": RUNTIME, "params": job["targets"][0]["params"]}]
    assert job["targets"][0]["params"]["threads"] == 2
    other = look(api, "benchmark", engine, targets=[{"runtime": RUNTIME, "params": {"threads": 1}}]).json()
    assert other["targets"][0]["params"]["threads"] == 1


def test_several_targets_are_a_parent_with_children(api: TestClient) -> None:
    offer(RUNTIME, "openvino-cpu")
    job = look(api, "profile", make_model(), targets=[RUNTIME, "openvino-cpu"]).json()
    assert len(job["children"]) == 2
    child = api.get(f"/v1/jobs/{job['children'][0]}").json()
    assert (child["kind"], child["profile"]) == ("profile", job["profile"])


def test_an_engine_is_neither_changed_nor_run_by_another_runtime(api: TestClient, engine: str) -> None:
    offer(RUNTIME, "openvino-cpu")
    passes = {"schema": 1, "passes": [{"pass": "simplify"}]}
    problem = assert_problem(look(api, "profile", engine, recipe=passes), 422, "invalid_params")
    assert problem["param"] == "recipe"
    problem = assert_problem(look(api, "profile", engine, targets=["openvino-cpu"]), 422, "invalid_params")
    assert problem["param"] == "targets[0].runtime"
    assert RUNTIME in problem["hint"]
    problem = assert_problem(api.post("/v1/jobs", json=optimize(engine)), 422, "invalid_params")
    assert problem["param"] == "subject"


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        ("profile", {"targets": []}, "targets"),
        ("profile", {"profile": {"of": "training"}}, "recipe.passes"),
        ("benchmark", {"benchmark": {"batch": [1, 1]}}, "benchmark"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(
    api: TestClient, kind: str, fields: dict[str, Any], param: str
) -> None:
    offer(RUNTIME)
    problem = assert_problem(look(api, kind, make_model(), **fields), 422, "invalid_params")
    assert problem["param"].startswith(param)


def test_no_more_threads_are_tried_than_a_worker_has_processors(api: TestClient) -> None:
    worker = offer(RUNTIME)
    with transaction() as session:
        session.get_one(Worker, worker).hardware = {"cores": 2}
    answer = look(api, "benchmark", make_model(), benchmark={"threads": [1, 2, 3]})
    problem = assert_problem(answer, 422, "invalid_params")
    assert problem["param"] == "targets[0].params.threads"
    assert look(api, "benchmark", make_model(), benchmark={"threads": [1, 2]}).status_code == 202


def test_data_is_held_against_the_model(api: TestClient) -> None:
    offer(RUNTIME)
    model = make_model()
    data = make_dataset()
    assert look(api, "profile", model, data=data).json()["data"] == data
    odd = make_dataset(inputs={"image": {"dtype": "float32", "shape": [3, 9, 9]}})
    assert_problem(look(api, "profile", model, data=odd), 422, "signature_mismatch")
    assert_problem(look(api, "profile", model, data="dat_none"), 404, "not_found")


def test_advice_is_followed_by_its_number(api: TestClient, advised: str) -> None:
    offer(RUNTIME)
    asked = {"job": advised, "number": 1}
    body = optimize(make_model(), recipe={"schema": 1, "passes": []}, advice=asked)
    assert api.post("/v1/jobs", json=body).json()["advice"] == asked
    problem = assert_problem(
        api.post("/v1/jobs", json={**body, "advice": {**asked, "number": 2}}), 422, "invalid_params"
    )
    assert (problem["param"], problem["hint"]) == ("advice.number", "it gave 1")
    problem = assert_problem(
        api.post("/v1/jobs", json={**body, "advice": {**asked, "job": make_job()}}), 422, "invalid_params"
    )
    assert problem["param"] == "advice.job"


def test_advice_of_another_project_is_not_found(api: TestClient, advised: str) -> None:
    other = make_project("other")
    offer(RUNTIME)
    body = optimize(
        make_model(other), recipe={"schema": 1, "passes": []}, advice={"job": advised, "number": 1}
    )
    answer = api.post("/v1/jobs", json=body, headers=bearer(make_key("write", project=other)))
    assert_problem(answer, 404, "not_found")


ADVICE = {
    "job": "job_x",
    "number": 1,
    "rule": "quantize",
    "title": "quantize it",
    "gain": GAIN,
    "latency": LATENCY,
    "passes": 0,
    "target": {"runtime": RUNTIME, "params": {}},
}
SPEEDUP = {"value": 2.2, "low": 2.1, "high": 2.3, "verdict": "faster"}
RESULT = {"comparison": {"speedup": SPEEDUP}, "optimized": {"latency": {"p50_ms": 8.0}}}


def test_a_prediction_stands_beside_the_speed_up_of_the_same_run() -> None:
    found = followed(ADVICE, {"runtime": RUNTIME, "params": {}}, RESULT)
    assert found["measured"] == {"value": 2.2, "low": 2.1, "high": 2.3}
    assert found["as_predicted"] is True
    assert "one run" in found["against"]


def test_a_prediction_for_another_setting_stands_beside_the_two_latencies() -> None:
    found = followed({**ADVICE, "passes": 1}, {"runtime": RUNTIME, "params": {}}, RESULT)
    assert found["measured"]["value"] == pytest.approx(1.25)
    assert found["as_predicted"] is False
    assert "another run" in found["against"]


def test_what_was_not_measured_is_not_as_predicted_nor_otherwise() -> None:
    found = followed(ADVICE, {"runtime": RUNTIME, "params": {}}, {"comparison": {"speedup": None}})
    assert (found["measured"], found["as_predicted"]) == (None, None)
