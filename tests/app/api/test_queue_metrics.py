"""What an autoscaler reads: waiting and running by queue, from the database, on PostgreSQL and SQLite."""

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.auth.tables import Project
from app.catalog.runtimes import RUNTIMES
from app.config import Settings, get_settings
from app.db import db_now, transaction
from app.fleet import service as fleet
from app.jobs.tables import Job
from app.models.tables import Model
from app.observability.queues import load
from app.queue import INSPECT_QUEUE, queue_for

CPU, GPU = queue_for("onnxruntime-cpu"), queue_for("onnxruntime-cuda")


def job(name: str, queue: str, status: str, project: str = "prj_default", age: float = 0) -> Job:
    """A row as `submit` and `claim` leave it; `age` in seconds."""
    return Job(
        id=f"job_{name}", project_id=project, kind="optimize", labels={}, status=status, progress={}, request={},
        subject="mdl_x", subject_digest="0" * 64, datasets=[], queue=queue, pending_until=db_now(600),
        created_at=db_now(-age),
    )  # fmt: skip


def upload(name: str, status: str, lease_seconds: float | None, age: float = 0) -> Model:
    """A model; `lease_seconds` from now its inspection is held, None: nobody ever did."""
    return Model(
        id=f"mdl_{name}", project_id="prj_default", name=name, filename=name, status=status, upload_digest="0" * 64,
        size_bytes=1, declared={}, created_at=db_now(-age),
        lease_expires_at=None if lease_seconds is None else db_now(lease_seconds),
    )  # fmt: skip


def gauges(api: TestClient, name: str) -> dict[tuple[str, ...], float]:
    """Values of a metric by (queue, state) or (queue,)."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(api.get("/metrics").text)
        for sample in family.samples
        if sample.name == name
    }


@pytest.fixture
def filled(burnish: Settings) -> Settings:
    with transaction() as session:
        session.add(Project(id="prj_full", name="full", max_running_jobs=1))
        session.flush()
        session.add_all(
            [
                job("old", CPU, "queued", age=100),
                job("new", CPU, "queued"),
                job("runs", CPU, "running"),
                job("stops", CPU, "cancelling"),
                job("done", CPU, "succeeded"),
                job("parent", "", "running"),
                job("gpu", GPU, "queued", age=50),
                job("full_runs", CPU, "running", "prj_full"),
                job("full_waits", CPU, "queued", "prj_full", age=500),
                upload("waits", "inspecting", None, age=200),
                upload("lost", "inspecting", -5),
                upload("held", "inspecting", 60),
                upload("ready", "ready", None, age=900),
            ]
        )
    return burnish


def test_load_counts_what_a_worker_could_take_and_what_runs(filled: Settings) -> None:
    with transaction(readonly=True) as session:
        found = load(session)
    assert found.keys() == {CPU, GPU, INSPECT_QUEUE}
    assert (found[CPU].waiting, found[CPU].running) == (2, 3)
    assert 100 <= found[CPU].oldest_seconds < 500  # not that of the project that may run no more
    assert (found[GPU].waiting, found[GPU].running) == (1, 0)
    assert (found[INSPECT_QUEUE].waiting, found[INSPECT_QUEUE].running) == (2, 1)
    assert 200 <= found[INSPECT_QUEUE].oldest_seconds < 900


def test_a_queue_that_nobody_serves_is_told_and_so_is_every_other(filled: Settings, api: TestClient) -> None:
    with transaction() as session:
        fleet.register(
            session, worker_id="wrk_a", host="h", pid=1, version="0", queues=[CPU], runtimes={}, hardware={}
        )
    jobs = gauges(api, "burnish_queue_jobs")
    assert {queue for queue, _ in jobs} == {INSPECT_QUEUE, *map(queue_for, RUNTIMES)}
    assert jobs[GPU, "waiting"] == 1
    assert jobs[queue_for("openvino-cpu"), "waiting"] == 0
    assert gauges(api, "burnish_workers") == {(CPU,): 1, (GPU,): 0, (INSPECT_QUEUE,): 0}


def test_a_queue_of_workers_that_were_never_seen_is_told(
    burnish: Settings, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = queue_for("tensorrt", "9.0")
    monkeypatch.setenv("BURNISH_ON_DEMAND", later)
    get_settings.cache_clear()
    assert gauges(api, "burnish_queue_jobs")[later, "waiting"] == 0
    with transaction() as session:
        session.add(job("later", later, "queued"))
    assert gauges(api, "burnish_queue_jobs")[later, "waiting"] == 1
    assert gauges(api, "burnish_workers")[later,] == 0


def test_nothing_waits_in_an_empty_installation(burnish: Settings) -> None:
    with transaction(readonly=True) as session:
        assert {queue: (each.waiting, each.oldest_seconds) for queue, each in load(session).items()} == {
            INSPECT_QUEUE: (0, 0.0)
        }
