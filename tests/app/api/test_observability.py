"""Health, metrics and the catalog."""

import threading
import time

import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families

from app.catalog.metrics import METRICS
from app.catalog.passes import PASSES
from app.catalog.runtimes import RUNTIMES
from app.config import Settings, get_settings
from app.db import db_now, transaction
from app.jobs.tables import Job, JobStep
from app.observability import health
from app.queue import get_celery
from app.storage import get_storage
from tests.app.api.support import Server


def test_healthy(api: TestClient) -> None:
    assert api.get("/healthz", headers={"Authorization": ""}).json() == {"status": "ok"}
    ready = api.get("/readyz", headers={"Authorization": ""})
    assert ready.status_code == 200
    assert ready.json()["ready"] is True
    assert {name for name, part in ready.json().items() if name != "ready" and part["ok"]} == {
        "database",
        "broker",
        "storage",
    }


def test_a_broker_that_is_away(api_sqlite: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_REDIS_URL", "redis://user:hidden@127.0.0.1:9/0")
    get_settings.cache_clear()
    get_celery.cache_clear()
    ready = api_sqlite.get("/readyz")
    assert ready.status_code == 503
    body = ready.json()
    assert (body["broker"]["ok"], body["database"]["ok"], body["storage"]["ok"]) == (False, True, True)
    assert "hidden" not in ready.text
    upload = api_sqlite.post("/v1/models", files={"file": ("m", b"abc")})
    assert upload.status_code == 201  # the database is the truth: the sweep rings again


def test_a_store_that_is_away(api_sqlite: TestClient) -> None:
    get_storage().incoming.rmdir()
    body = api_sqlite.get("/readyz").json()
    assert body["storage"]["ok"] is False
    assert body["ready"] is False


def test_a_part_that_hangs_is_not_waited_for(api_sqlite: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(health, "ping_broker", lambda: release.wait(60))
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.5)
    started = time.monotonic()
    body = api_sqlite.get("/readyz").json()
    release.set()
    assert time.monotonic() - started < 30
    assert "no answer" in body["broker"]["problem"]


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics(api: TestClient, burnish: Settings) -> None:
    queue = "runtime.onnxruntime-cpu"
    with transaction() as session:
        for index, status in enumerate(["queued", "queued", "succeeded"]):
            session.add(
                Job(
                    id=f"job_{index}", project_id="prj_default", kind="optimize", labels={}, status=status,
                    progress={}, request={}, subject="mdl_x", subject_digest="0" * 64, datasets=[], queue=queue,
                    pending_until=db_now(60), created_at=db_now(-100 if index == 0 else 0),
                )
            )  # fmt: skip
        session.flush()
        for index, (cached, seconds) in enumerate([(False, 2.0), (False, 3.0), (True, 0.0)]):
            session.add(
                JobStep(
                    job_id="job_2", index=index, project_id="prj_default", name="simplify", status="done",
                    cached=cached, seconds=seconds, facts={},
                )
            )  # fmt: skip
    for name in ("a", "b", "c"):
        api.get(f"/v1/models/mdl_{name}")
        api.get(f"/invented/{name}")
    found = samples(api.get("/metrics").text)
    missing = ("method", "GET"), ("route", "/v1/models/{model_id}"), ("status", "404")
    assert found["burnish_http_requests_total", missing] >= 3
    assert found["burnish_http_request_seconds_count", missing[:2]] >= 3
    routes = {value for _, labels in found for key, value in labels if key == "route"}
    assert "unmatched" in routes
    assert not [route for route in routes if "invented" in route or "mdl_" in route]
    assert found["burnish_jobs", (("status", "queued"),)] == 2
    assert found["burnish_jobs", (("status", "succeeded"),)] == 1
    assert 100 <= found["burnish_queue_oldest_seconds", (("queue", queue),)] < 200
    assert found["burnish_queue_messages", (("queue", queue),)] >= 0
    assert found["burnish_queue_jobs", (("queue", queue), ("state", "waiting"))] == 2
    assert found["burnish_step_seconds_sum", (("step", "simplify"),)] == 5.0
    assert found["burnish_step_seconds_count", (("step", "simplify"),)] == 2
    assert found["burnish_steps_total", (("cached", "true"), ("step", "simplify"))] == 1
    assert found["burnish_steps_total", (("cached", "false"), ("step", "simplify"))] == 2


def test_the_catalog_is_whole_and_its_schemas_are_schemas(api_sqlite: TestClient) -> None:
    for path, specs in (("passes", PASSES), ("runtimes", RUNTIMES), ("metrics", METRICS)):
        items = api_sqlite.get(f"/v1/{path}").json()["items"]
        assert [item["name"] for item in items] == list(specs)
        for item in items:
            assert item["title"]
            assert item["documentation"]
            if "params" in item:
                Draft202012Validator.check_schema(item["params"])
                assert item["params"].get("additionalProperties") is False


def test_stopping_does_not_wait_for_who_waits(server: Server) -> None:
    id_ = server.client.post("/v1/models", files={"file": ("m", b"abc")}).json()["id"]
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(server.client.get(f"/v1/models/{id_}?wait=50")))
    started = time.monotonic()
    waiter.start()
    time.sleep(0.5)
    server.stop()
    waiter.join(30)
    assert time.monotonic() - started < 8
    assert answers[0].json()["status"] == "inspecting"
