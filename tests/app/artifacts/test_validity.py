"""`GET /v1/artifacts/{id}/validity`."""

from typing import Any

from fastapi.testclient import TestClient

from app.artifacts.envelope import at_least, equal
from app.db import transaction
from app.fleet import service as fleet
from tests.app.api.support import assert_problem, bearer, make_key, make_project
from tests.app.artifacts.test_content import make
from tests.app.jobs.factories import RUNTIME


def register(host: str, **hardware: Any) -> None:
    with transaction() as session:
        fleet.register(
            session,
            worker_id=f"wrk_{host}",
            host=host,
            pid=1,
            version="0",
            queues=["inspect"],
            runtimes={RUNTIME: {"versions": {"onnxruntime": "1.32.0"}}},
            hardware=hardware,
        )


CONDITIONS = [
    equal("architecture", "x86_64", "no", "it is machine code").as_json(),
    at_least("processors", 4, "slow", "it was measured so").as_json(),
    at_least("package:onnxruntime", "1.32", "no", "it built it").as_json(),
]


def test_an_engine_is_held_against_every_live_worker(api: TestClient) -> None:
    artifact = make(api, manifest={"schema": 1, "validity": {"conditions": CONDITIONS}})
    register("host-b", architecture="x86_64", cores=8)
    register("host-c", architecture="x86_64", cores=2)
    register("host-d", architecture="aarch64", cores=8)
    answer = api.get(f"/v1/artifacts/{artifact}/validity").json()
    assert answer["conditions"] == CONDITIONS
    verdicts = {worker["host"]: worker["verdict"] for worker in answer["workers"]}
    assert verdicts == {"host-a": "unproved", "host-b": "yes", "host-c": "slow", "host-d": "no"}
    (slow,) = [worker for worker in answer["workers"] if worker["host"] == "host-c"]
    assert slow["findings"][1]["detail"] == "wanted at least 4, here is 2: it was measured so"


def test_what_is_no_engine_is_valid_nowhere(api: TestClient) -> None:
    report = make(api, kind="report", manifest=None)
    assert_problem(api.get(f"/v1/artifacts/{report}/validity"), 422, "invalid_params")
    strange = make(api, manifest={"validity": {"conditions": [{"what": "moon"}]}})
    assert_problem(api.get(f"/v1/artifacts/{strange}/validity"), 422, "invalid_params")
    old = make(api, manifest={"schema": 1})
    assert api.get(f"/v1/artifacts/{old}/validity").json()["conditions"] == []


def test_another_projects_engine_is_not_there(api: TestClient) -> None:
    artifact = make(api)
    stranger = bearer(make_key("admin", project=make_project("other")))
    assert_problem(api.get(f"/v1/artifacts/{artifact}/validity", headers=stranger), 404, "not_found")
