"""`POST /v1/artifacts/{id}/rebuild`, and the forms that a job may ask for."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.db import transaction
from app.jobs.tables import Job
from app.models.tables import Model
from tests.app.api.support import assert_problem, bearer, make_key, make_project
from tests.app.jobs.factories import (
    RUNTIME,
    claim,
    finish,
    make_artifact,
    make_dataset,
    make_model,
    offer,
    optimize,
    sha,
)

OPENVINO = "openvino-cpu"
TREE = sha("optimized")


def made(api: TestClient, *, changed: bool = True, **fields: Any) -> dict[str, str]:
    """A job that succeeded: ids of {subject, job, engine, model}; no model where its passes changed nothing."""
    subject = make_model()
    job = api.post("/v1/jobs", json=optimize(subject, **fields)).json()["id"]
    attempt = claim(job)
    assert attempt is not None
    found = {"subject": subject, "job": job, "engine": make_artifact(job)}
    if changed:
        with transaction(readonly=True) as session:
            model = session.get_one(Model, subject)
            manifest = {"name": "m", "format": "onnx", "signature": model.signature, "facts": model.facts}
        found["model"] = make_artifact(job, b"onnx", kind="model", tree_digest=TREE, manifest=manifest)
    artifacts = {kind: found[kind] for kind in ("engine", "model") if kind in found}
    assert finish(job, attempt, result={"artifacts": artifacts})
    return found


def rebuild(api: TestClient, artifact: str, body: dict[str, Any] | None = None, **headers: str) -> Any:
    return api.post(f"/v1/artifacts/{artifact}/rebuild", json=body or {}, headers=headers)


def test_another_target_starts_from_the_stored_model(api: TestClient) -> None:
    offer(RUNTIME, OPENVINO)
    evaluation = {"dataset": make_dataset(), "metric": "top1", "output": "logits"}
    first = made(api, name="digits", evaluation=evaluation)
    target = {"runtime": OPENVINO, "params": {"threads": 2}}
    body = {"target": target, "labels": {"why": "moved"}, "options": {"package": ["mlflow"]}}
    answer = rebuild(api, first["engine"], body)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["kind"], job["subject"]) == ("queued", "optimize", first["model"])
    assert (job["name"], job["labels"]) == ("digits", {"why": "moved"})
    assert job["recipe"]["passes"] == []
    assert job["targets"][0]["runtime"] == OPENVINO
    assert job["targets"][0]["params"]["threads"] == 2
    assert job["evaluation"] == evaluation
    assert job["options"]["package"] == ["mlflow"]
    with transaction(readonly=True) as session:
        row = session.get_one(Job, job["id"])
        assert (row.subject_digest, row.queue) == (TREE, f"runtime.{OPENVINO}")
    # what a job starts from cannot be deleted
    assert_problem(api.delete(f"/v1/artifacts/{first['model']}"), 409, "conflict")


def test_without_a_target_it_is_the_one_of_before(api: TestClient) -> None:
    offer(RUNTIME)
    first = made(api, targets=[{"runtime": RUNTIME, "params": {"threads": 3}}])
    for artifact in (
        first["engine"],
        first["model"],
        make_artifact(first["job"], kind="report", manifest=None),
    ):
        job = rebuild(api, artifact).json()
        assert job["subject"] == first["model"]
        assert (job["targets"][0]["runtime"], job["targets"][0]["params"]["threads"]) == (RUNTIME, 3)
    short = rebuild(api, first["engine"], {"target": RUNTIME, "name": "again"}).json()
    assert (short["name"], short["targets"][0]["params"]["threads"]) == ("again", 0)


def test_passes_that_changed_nothing_leave_the_upload(api: TestClient) -> None:
    offer(RUNTIME)
    first = made(api, changed=False)
    assert rebuild(api, first["engine"]).json()["subject"] == first["subject"]


def test_a_stored_model_that_was_deleted_is_named(api: TestClient) -> None:
    offer(RUNTIME)
    first = made(api)
    assert api.delete(f"/v1/artifacts/{first['model']}").status_code == 204
    problem = assert_problem(rebuild(api, first["engine"]), 409, "conflict")
    assert first["model"] in problem["detail"]
    assert first["job"] in problem["hint"]


def test_data_of_before_that_was_deleted_is_left_out(api: TestClient) -> None:
    offer(RUNTIME)
    dataset = make_dataset()
    first = made(api, evaluation={"dataset": dataset, "metric": "top1"})
    with transaction() as session:  # as where the job's data was removed by its retention
        from app.datasets.tables import Dataset

        session.delete(session.get_one(Dataset, dataset))
    assert rebuild(api, first["engine"]).json()["evaluation"] is None
    other = {"dataset": make_dataset(), "metric": "top1"}
    assert (
        rebuild(api, first["engine"], {"evaluation": other}).json()["evaluation"]["dataset"]
        == other["dataset"]
    )


def test_the_same_key_rebuilds_once(api: TestClient) -> None:
    offer(RUNTIME)
    first = made(api)
    one, two = (rebuild(api, first["engine"], **{"Idempotency-Key": "once"}) for _ in range(2))
    assert one.json() == two.json()
    other = rebuild(api, first["engine"], {"name": "x"}, **{"Idempotency-Key": "once"})
    assert other.status_code == 422
    with transaction(readonly=True) as session:
        assert len(list(session.scalars(select(Job.id)))) == 2


def test_readers_and_strangers_rebuild_nothing(api: TestClient) -> None:
    offer(RUNTIME)
    engine = made(api)["engine"]
    assert_problem(rebuild(api, engine, None, **bearer(make_key("read"))), 403, "forbidden")
    stranger = bearer(make_key("admin", project=make_project("other")))
    assert_problem(rebuild(api, engine, None, **stranger), 404, "not_found")
    assert_problem(rebuild(api, "art_unknown"), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"target": "no-such-runtime"}, 422, "invalid_params", "targets[0].runtime"),
        ({"target": {"runtime": RUNTIME, "params": {"threads": -1}}}, 422, "invalid_params", None),
        ({"target": OPENVINO}, 409, "no_worker", "targets[0].runtime"),
        ({"recipe": {"passes": []}}, 422, "invalid_params", "recipe"),
        ({"options": {"package": ["zip"]}}, 422, "invalid_params", "options.package[0]"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_rebuilt(
    api: TestClient, body: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    offer(RUNTIME)
    problem = assert_problem(rebuild(api, made(api)["engine"], body), status, code)
    assert param is None or problem["param"] == param


def test_a_form_that_there_is_not_of_a_target_is_refused_with_the_reason(api: TestClient) -> None:
    offer(RUNTIME)
    ort = {"runtime": RUNTIME, "params": {"engine_format": "ort"}}
    body = optimize(make_model(), targets=[ort], options={"package": ["docker", "triton"]})
    problem = assert_problem(api.post("/v1/jobs", json=body), 422, "invalid_params")
    assert problem["param"] == "options.package"
    assert "engine_format=onnx" in problem["detail"]
    assert problem["hint"] == "leave it out, or take docker, mlflow"
    body["targets"] = [RUNTIME]
    assert api.post("/v1/jobs", json=body).json()["options"]["package"] == ["docker", "triton"]
