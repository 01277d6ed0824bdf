"""Everything that is refused before anything is queued, and what a queued job holds."""

import dataclasses
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.catalog.passes import PASSES
from app.config import get_settings
from app.db import transaction
from app.events import service as events
from app.fleet import service as fleet
from app.jobs.tables import Job
from app.queue import queue_depth
from tests.app.api.support import assert_problem, bearer, make_key, make_project
from tests.app.jobs.factories import RUNTIME, make_artifact, make_dataset, make_model, offer, optimize, sha

STATIC = {"pass": "quantize-static"}


def submit(api: TestClient, body: dict[str, Any], **headers: str) -> Any:
    return api.post("/v1/jobs", json=body, headers=headers)


def recipe(*passes: dict[str, Any]) -> dict[str, Any]:
    return {"schema": 1, "passes": list(passes)}


def test_a_job_is_queued_and_rung_for(api: TestClient) -> None:
    offer(RUNTIME)
    model, calibration, evaluation = make_model(), make_dataset(), make_dataset()
    answer = submit(
        api,
        optimize(
            model,
            name="digits int8",
            recipe=recipe({"pass": "simplify"}, {**STATIC, "inputs": {"calibration": calibration}}),
            targets=[{"runtime": RUNTIME, "params": {"threads": 2}}],
            evaluation={"dataset": evaluation, "metric": "top1"},
            budget={"max_drop": 0.01},
            labels={"team": "vision"},
        ),
    )
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["url"].endswith(f"/v1/jobs/{job['id']}")
    assert (job["status"], job["finished"], job["attempt"]) == ("queued", False, 0)
    assert (job["subject"], job["labels"], job["name"]) == (model, {"team": "vision"}, "digits int8")
    assert (job["parent"], job["children"], job["retry_of"]) == (None, [], None)
    assert [step["pass"] for step in job["recipe"]["passes"]] == ["simplify", "quantize-static"]
    assert [step["version"] for step in job["recipe"]["passes"]] == [
        PASSES["simplify"].version,
        PASSES["quantize-static"].version,
    ]
    assert job["recipe"]["passes"][1]["params"]["method"] == "minmax"
    assert job["targets"][0]["params"]["threads"] == 2
    assert job["targets"][0]["params"]["graph_optimization"] == "all"
    assert job["evaluation"] == {"dataset": evaluation, "metric": "top1", "output": "logits"}
    assert api.get(answer.headers["location"]).json() == job
    with transaction(readonly=True) as session:
        row = session.get_one(Job, job["id"])
        assert row.datasets == sorted({calibration, evaluation})
        assert row.subject_digest == sha("tree" + model)
        assert 3500 < (row.pending_until - row.created_at).total_seconds() < 3700
        [event] = events.since(session, row.project_id, row.id, 0)
        assert (event.type, event.data["status"]) == ("status", "queued")
    assert queue_depth(f"runtime.{RUNTIME}") == 1


def test_a_short_target_gets_its_preset(api: TestClient) -> None:
    offer(RUNTIME)
    dataset = make_dataset()
    job = submit(api, optimize(make_model(), inputs={"calibration": dataset})).json()
    assert [step["pass"] for step in job["recipe"]["passes"]] == ["simplify", "quantize-static"]
    assert job["recipe"]["passes"][1]["inputs"] == {"calibration": dataset}
    assert job["recipe"]["notes"]
    assert job["inputs"] == {"calibration": dataset}
    without = submit(api, optimize(make_model())).json()
    assert [step["pass"] for step in without["recipe"]["passes"]] == ["simplify"]


def test_data_that_no_pass_reads_stay_with_the_job(api: TestClient) -> None:
    offer(RUNTIME)
    dataset = make_dataset()
    body = optimize(make_model(), recipe=recipe({"pass": "simplify"}), inputs={"calibration": dataset})
    job = submit(api, body).json()
    with transaction(readonly=True) as session:
        row = session.get(Job, job["id"])
        assert row is not None
        assert row.datasets == [dataset]
    assert api.post(f"/v1/jobs/{job['id']}/cancel").json()["finished"]
    assert api.post(f"/v1/jobs/{job['id']}/retry").json()["inputs"] == {"calibration": dataset}


def test_the_same_key_queues_once(api: TestClient) -> None:
    offer(RUNTIME)
    body = optimize(make_model())
    first, second = (submit(api, body, **{"Idempotency-Key": "once"}) for _ in range(2))
    assert first.json() == second.json()
    assert second.status_code == 202
    assert len(api.get("/v1/jobs").json()["items"]) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"targets": []}, "targets"),
        ({"targets": [{"runtime": RUNTIME, "thread": 1}]}, "targets[0].thread"),
        ({"recipes": None}, "recipes"),
        ({"kind": "optimise"}, "kind"),
        ({"kind": None}, "kind"),
        ({"kind": "profile", "profile": {"batch": 0}}, "profile.batch"),
        ({"kind": "profile", "budget": {"max_drop": 0.1}}, "budget"),
        ({"kind": "benchmark", "benchmark": {"scenarios": ["server"]}}, "benchmark"),
        ({"budget": {"max_drop": -0.1}}, "budget.max_drop"),
        ({"limits": {"running_seconds": 0}}, "limits.running_seconds"),
        ({"options": {"package": ["zip"]}}, "options.package[0]"),
        ({"options": {"package": ["docker", "docker"]}}, "options.package"),
        ({"options": {"allow_synthetik": True}}, "options.allow_synthetik"),
        ({"labels": {"-": "x"}}, "labels.-.[key]"),
        ({"name": ""}, "name"),
    ],
)
def test_fields_that_are_not_valid(api: TestClient, fields: dict[str, Any], param: str) -> None:
    problem = assert_problem(submit(api, {**optimize("mdl_x"), **fields}), 422, "invalid_params")
    assert problem["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b'{"kind": "optimize", "subject": "mdl_x", "targets": ["onnxruntime-cpu"], "name": "a\\u0000b"}',
        b'{"kind": "optimize", "subject": "mdl_x", "targets": ["onnxruntime-cpu"], "name": "a\\ud800"}',
        b'{"kind": "optimize", "subject": "mdl_x", "targets": [{"runtime": "x", "params": {"a": NaN}}]}',
    ],
)
def test_what_no_database_stores(api: TestClient, body: bytes) -> None:
    answer = api.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 422, "invalid_params")


def test_a_body_nested_deeply_is_an_error_of_the_client(api: TestClient) -> None:
    body = b'{"kind": "optimize", "x": ' + b"[" * 900 + b"]" * 900 + b"}"
    answer = api.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 422, "invalid_params")


def test_the_subject_must_be_there_and_ready(api: TestClient) -> None:
    offer(RUNTIME)
    assert assert_problem(submit(api, optimize("mdl_none")), 404, "not_found")["param"] == "subject"
    assert assert_problem(submit(api, optimize("art_none")), 404, "not_found")["param"] == "subject"
    inspecting = make_model(status="inspecting", digest=None, signature=None, facts={})
    problem = assert_problem(submit(api, optimize(inspecting)), 409, "conflict")
    assert f"/v1/models/{inspecting}?wait=30" in problem["hint"]
    why = {"code": "invalid_model", "detail": "node 3 has no kernel", "hint": "export it anew"}
    rejected = make_model(status="rejected", problem=why)
    problem = assert_problem(submit(api, optimize(rejected)), 422, "invalid_model")
    assert "node 3 has no kernel" in problem["detail"]
    assert (problem["hint"], problem["errors"]) == ("export it anew", [why])


def test_a_job_can_start_from_an_artifact_that_is_a_model(api: TestClient) -> None:
    offer(RUNTIME)
    first = submit(api, optimize(make_model())).json()["id"]
    with transaction(readonly=True) as session:
        from app.models.tables import Model

        model = session.get_one(Model, session.get_one(Job, first).subject)
        manifest = {"name": "m", "format": "onnx", "signature": model.signature, "facts": model.facts}
    artifact = make_artifact(first, kind="model", tree_digest=sha("tree"), manifest=manifest)
    second = submit(api, optimize(artifact))
    assert second.status_code == 202, second.text
    with transaction(readonly=True) as session:
        assert session.get_one(Job, second.json()["id"]).subject_digest == sha("tree")
    engine = make_artifact(first)
    problem = assert_problem(submit(api, optimize(engine)), 422, "invalid_params")
    assert problem["param"] == "subject"
    assert_problem(api.delete(f"/v1/artifacts/{artifact}"), 409, "conflict")


def test_datasets_must_be_there_ready_and_fit(api: TestClient) -> None:
    offer(RUNTIME)
    model = make_model()

    def with_calibration(dataset: str) -> Any:
        return submit(api, optimize(model, recipe=recipe({**STATIC, "inputs": {"calibration": dataset}})))

    def with_evaluation(dataset: str, **fields: Any) -> Any:
        evaluation = {"dataset": dataset, "metric": "top1", **fields}
        return submit(api, optimize(model, evaluation=evaluation))

    problem = assert_problem(with_calibration("dat_none"), 404, "not_found")
    assert problem["param"] == "recipe.passes[0].inputs.calibration"
    assert assert_problem(with_evaluation("dat_none"), 404, "not_found")["param"] == "evaluation.dataset"
    inspecting = make_dataset(status="inspecting", digest=None, samples=None, inputs=None, labels=None)
    assert_problem(with_calibration(inspecting), 409, "conflict")
    rejected = make_dataset(status="rejected", problem={"detail": "pickled arrays"})
    problem = assert_problem(with_calibration(rejected), 422, "invalid_dataset")
    assert "pickled arrays" in problem["detail"]
    other_name = make_dataset(inputs={"picture": {"dtype": "float32", "shape": [1, 8, 8]}})
    problem = assert_problem(with_calibration(other_name), 422, "signature_mismatch")
    assert "'image'" in problem["detail"]
    other_type = make_dataset(inputs={"image": {"dtype": "int64", "shape": [1, 8, 8]}})
    problem = assert_problem(with_evaluation(other_type), 422, "signature_mismatch")
    assert "int64" in problem["detail"]
    other_shape = make_dataset(inputs={"image": {"dtype": "float32", "shape": [1, 8, 9]}})
    problem = assert_problem(with_evaluation(other_shape), 422, "signature_mismatch")
    assert "[1, 8, 9]" in problem["detail"]
    unlabelled = make_dataset(labels=None)
    problem = assert_problem(with_evaluation(unlabelled), 422, "invalid_params")
    assert problem["param"] == "evaluation.metric"
    problem = assert_problem(with_evaluation(make_dataset(), metric="top2000"), 422, "invalid_params")
    assert problem["param"] == "evaluation.metric"
    problem = assert_problem(with_evaluation(make_dataset(), output="logit"), 422, "signature_mismatch")
    assert "logits" in problem["hint"]


def test_the_output_is_asked_for_where_there_are_several(api: TestClient) -> None:
    offer(RUNTIME)
    outputs = [{"name": name, "dtype": "float32", "shape": ["batch", 10]} for name in ("a", "b")]
    from tests.app.jobs.factories import SIGNATURE

    model = make_model(signature={**SIGNATURE, "outputs": outputs})
    body = optimize(model, evaluation={"dataset": make_dataset(), "metric": "top1"})
    assert assert_problem(submit(api, body), 422, "invalid_params")["param"] == "evaluation.output"
    body["evaluation"]["output"] = "b"
    assert submit(api, body).status_code == 202


def test_fields_that_do_not_fit_each_other(api: TestClient) -> None:
    offer(RUNTIME)
    model, dataset = make_model(), make_dataset()
    problem = assert_problem(submit(api, optimize(model, budget={"max_drop": 0.1})), 422, "invalid_params")
    assert problem["param"] == "budget"
    body = optimize(model, budget={"max_drop": 3}, evaluation={"dataset": dataset, "metric": "snr"})
    assert assert_problem(submit(api, body), 422, "invalid_params")["param"] == "budget"


def test_recipes_that_cannot_work(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(RUNTIME)
    model = make_model()
    problem = assert_problem(
        submit(api, optimize(model, recipe=recipe({"pass": "simplifi"}))), 422, "unknown_pass"
    )
    assert problem["param"] == "recipe.passes[0].pass"
    problem = assert_problem(submit(api, optimize(model, recipe=recipe(STATIC))), 422, "invalid_params")
    assert problem["param"] == "recipe.passes[0].inputs.calibration"
    large = make_model(facts={"size_bytes": 3 * 2**30, "over_2gb": True})
    monkeypatch.setitem(PASSES, "simplify", dataclasses.replace(PASSES["simplify"], over_2gb=False))
    body = optimize(large, recipe=recipe({"pass": "simplify"}))
    problem = assert_problem(submit(api, body), 422, "incompatible_recipe")
    assert "2 GB" in problem["detail"]
    assert api.get("/v1/jobs").json()["items"] == []


def test_a_runtime_that_nobody_offered_is_refused_one_that_is_offline_waits(api: TestClient) -> None:
    model = make_model()
    problem = assert_problem(submit(api, optimize(model, targets=["cuda"])), 422, "invalid_params")
    assert problem["param"] == "targets[0].runtime"
    problem = assert_problem(submit(api, optimize(model)), 409, "no_worker")
    assert f"runtime.{RUNTIME}" in problem["hint"]
    worker = offer(RUNTIME)
    with transaction() as session:
        fleet.stop(session, worker)
        assert fleet.served(session, get_settings().worker_seen_seconds)[f"runtime.{RUNTIME}"] == "offline"
    assert submit(api, optimize(model)).status_code == 202


def test_validate_tells_without_queueing(api: TestClient) -> None:
    model = make_model(facts={"domains": {"": 18, "com.acme": 1}})
    body = optimize(model, inputs={"calibration": make_dataset()})
    answer = api.post(f"/v1/models/{model}/validate", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert not told["valid"]
    assert told["operators"]["other_domains"] == ["com.acme"]
    [target] = told["targets"]
    assert target["problem"]["code"] == "no_worker"
    assert target["workers"] == {"queue": f"runtime.{RUNTIME}", "state": None, "workers": []}
    worker = offer(RUNTIME)
    told = api.post(f"/v1/models/{model}/validate", json=body).json()
    assert told["valid"]
    [target] = told["targets"]
    assert [(step["name"], step["takes"], step["leaves"]) for step in target["steps"]] == [
        ("simplify", "fp32", "fp32"),
        ("quantize-static", "fp32", "int8"),
    ]
    assert target["workers"] == {"queue": f"runtime.{RUNTIME}", "state": "online", "workers": [worker]}
    body["recipe"] = recipe({"pass": "to-fp16"}, {**STATIC, "inputs": {"calibration": make_dataset()}})
    body["inputs"] = {}
    told = api.post(f"/v1/models/{model}/validate", json=body).json()
    assert told["targets"][0]["problem"]["code"] == "incompatible_recipe"
    assert_problem(api.post(f"/v1/models/{make_model()}/validate", json=body), 422, "invalid_params")
    assert api.get("/v1/jobs").json()["items"] == []


def test_another_projects_things_are_not_there(api: TestClient) -> None:
    offer(RUNTIME)
    model, dataset = make_model(), make_dataset()
    job = submit(api, optimize(model)).json()["id"]
    artifact = make_artifact(job)
    project = make_project("other")
    key = bearer(make_key("write", project=project))
    own = make_model(project)
    for method, path in [
        ("GET", f"/v1/jobs/{job}"),
        ("GET", f"/v1/jobs/{job}/events"),
        ("GET", f"/v1/jobs/{job}/logs"),
        ("GET", f"/v1/jobs/{job}/artifacts"),
        ("POST", f"/v1/jobs/{job}/cancel"),
        ("POST", f"/v1/jobs/{job}/retry"),
        ("DELETE", f"/v1/jobs/{job}"),
        ("GET", f"/v1/artifacts/{artifact}"),
        ("GET", f"/v1/artifacts/{artifact}/content"),
        ("DELETE", f"/v1/artifacts/{artifact}"),
    ]:
        assert_problem(api.request(method, path, headers=key), 404, "not_found")
    for path in ("/v1/jobs", "/v1/artifacts"):
        assert api.get(path, headers=key).json()["items"] == []
    assert_problem(submit(api, optimize(model), **key), 404, "not_found")
    assert_problem(submit(api, optimize(artifact), **key), 404, "not_found")
    assert_problem(
        api.post(f"/v1/models/{model}/validate", json=optimize(model), headers=key), 404, "not_found"
    )
    evaluation = {"dataset": dataset, "metric": "top1"}
    assert_problem(submit(api, optimize(own, evaluation=evaluation), **key), 404, "not_found")
    assert submit(api, optimize(own), **key).status_code == 202
    assert len(api.get("/v1/jobs").json()["items"]) == 1
