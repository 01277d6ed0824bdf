"""What workers say of themselves, what clients see of it, and who measures on a device."""

import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.config import Settings
from app.db import db_now, transaction
from app.fleet import devices, service
from app.fleet.tables import Worker
from app.ids import new_id
from tests.app.api.support import bearer, make_key, make_project
from tests.app.jobs.factories import RUNTIME, claim, make_model, offer, optimize

SEEN = 30.0


def known(runtime: str = RUNTIME) -> str | None:
    with transaction(readonly=True) as session:
        return service.served(session, SEEN).get(f"runtime.{runtime}")


def fall_silent(worker: str) -> None:
    with transaction() as session:
        session.get_one(Worker, worker).last_seen_at = db_now(-60)


def live() -> list[str]:
    with transaction(readonly=True) as session:
        return [worker.id for worker in service.list_live(session, SEEN)]


def test_a_worker_comes_is_silent_comes_back_and_stops(burnish: Settings) -> None:
    assert known() is None
    worker = offer(RUNTIME)
    assert (known(), known("tensorrt"), live()) == ("online", None, [worker])
    fall_silent(worker)
    assert (known(), live()) == ("offline", [])
    with transaction() as session:
        assert service.heartbeat(session, worker, ["job_a"])
    assert (known(), live()) == ("online", [worker])
    with transaction() as session:
        assert session.get_one(Worker, worker).doing == ["job_a"]
        service.stop(session, worker)
    assert (known(), live()) == ("offline", [])
    with transaction() as session:
        assert not service.heartbeat(session, worker, [])
        assert not service.heartbeat(session, "wrk_unknown", [])
    offer(RUNTIME, worker_id=worker)
    assert live() == [worker]


def test_one_live_worker_is_enough(burnish: Settings) -> None:
    first, second = offer(RUNTIME), offer(RUNTIME, host="host-b")
    fall_silent(first)
    assert (known(), live()) == ("online", [second])


def test_restarts_leave_one_row(burnish: Settings) -> None:
    for _ in range(4):
        worker = offer(RUNTIME)
        with transaction() as session:
            service.stop(session, worker)
    other = offer(host="host-b")
    with transaction(readonly=True) as session:
        assert set(session.scalars(select(Worker.id))) == {worker, other}


def test_a_queue_that_an_autoscaler_serves_is_offline_until_somebody_does(
    burnish: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(burnish, "on_demand", f"runtime.tensorrt, runtime.{RUNTIME}")
    assert (known("tensorrt"), known(), known("torch-eager")) == ("offline", "offline", None)
    offer(RUNTIME)
    assert (known("tensorrt"), known()) == ("offline", "online")


def test_clients_see_live_workers_and_their_own_jobs_alone(api: TestClient) -> None:
    worker = offer(RUNTIME)
    fall_silent(offer(RUNTIME, host="host-z"))
    key = bearer(make_key("write", project=(project := make_project("other"))))
    own = api.post("/v1/jobs", json=optimize(make_model())).json()["id"]
    foreign = api.post("/v1/jobs", json=optimize(make_model(project)), headers=key).json()["id"]
    for job_id in (own, foreign):
        assert claim(job_id, worker) == 1
    with transaction() as session:
        assert service.heartbeat(session, worker, [own, foreign, "mdl_inspected"])
    for headers, jobs in (({}, [own]), (key, [foreign])):
        [told] = api.get("/v1/workers", headers=headers).json()["items"]
        assert (told["id"], told["jobs"], told["other_tasks"]) == (worker, jobs, 2)
        assert told["hardware"] == {"cpus": 2}
        assert told["runtimes"] == {RUNTIME: {"version": "1"}}


def race(count: int, device: str) -> list[Any]:
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def run(index: int) -> None:
        barrier.wait()
        with transaction() as session:
            results[index] = devices.acquire(session, "host-a", device, f"job_{index}/1", 30)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_one_of_many_gets_a_device(burnish: Settings) -> None:
    for _ in range(5):
        results = race(8, new_id("dev"))
        assert sorted(results) == [False] * 7 + [True]


def test_a_device_is_held_given_back_and_lost(burnish: Settings) -> None:
    def acquire(holder: str, seconds: float = 30, host: str = "host-a") -> bool:
        with transaction() as session:
            return devices.acquire(session, host, "cpu", holder, seconds)

    assert acquire("job_a/1")
    assert acquire("job_a/1")
    assert not acquire("job_b/1")
    assert acquire("job_b/1", host="host-b")
    with transaction() as session:
        devices.release(session, "host-a", "cpu", "job_c/1")
        assert not devices.renew(session, "host-a", "cpu", "job_c/1", 30)
        assert devices.renew(session, "host-a", "cpu", "job_a/1", 30)
    assert not acquire("job_c/1")
    with transaction() as session:
        devices.release(session, "host-a", "cpu", "job_a/1")
    assert acquire("job_c/1", seconds=-1)
    assert acquire("job_d/1")
    with transaction() as session:
        assert not devices.renew(session, "host-a", "cpu", "job_c/1", 30)
