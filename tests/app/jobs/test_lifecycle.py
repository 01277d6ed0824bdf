"""Cancel, retry, delete; parents and children; races between a client and workers."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.artifacts.tables import Artifact, ArtifactInput
from app.auth.tables import DEFAULT_PROJECT
from app.config import Settings
from app.db import db_now, transaction
from app.errors import Conflict, NotFound
from app.events import service as events
from app.events.tables import Event
from app.jobs import changes, lease, logs, service
from app.jobs.schemas import read_request
from app.jobs.status import JobStatus
from app.jobs.tables import Job, JobLog, JobStep
from app.models import service as models
from app.queue import queue_depth
from tests.app.api.support import assert_problem
from tests.app.jobs.factories import (
    RUNTIME,
    claim,
    finish,
    make_artifact,
    make_model,
    offer,
    optimize,
    status_of,
)

PROBLEM = {"code": "crashed", "detail": "signal 9", "retryable": True}


def queue(subject: str | None = None, **fields: Any) -> str:
    body = read_request(optimize(subject or make_model(), **fields))
    with transaction() as session:
        return service.submit(session, DEFAULT_PROJECT, body).id


def queue_family(targets: int = 2) -> tuple[str, list[str]]:
    """A parent and its children."""
    offer(RUNTIME)
    parent = queue(targets=[{"runtime": RUNTIME, "params": {"threads": n + 1}} for n in range(targets)])
    with transaction(readonly=True) as session:
        [job] = service.answers(session, DEFAULT_PROJECT, [service.get_job(session, DEFAULT_PROJECT, parent)])
    return parent, job.children


def said(job_id: str) -> list[str]:
    with transaction(readonly=True) as session:
        rows = events.since(session, DEFAULT_PROJECT, job_id, 0)
        return [row.data["status"] for row in rows if row.type == "status"]


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Run actions in threads that start together; their results, exceptions too."""
    barrier = threading.Barrier(len(actions))
    results: list[Any] = [None] * len(actions)

    def run(index: int, action: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            results[index] = action()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def cancel(job_id: str) -> str:
    with transaction() as session:
        return service.cancel(session, DEFAULT_PROJECT, job_id).status


def test_cancel_before_during_and_after(api: TestClient) -> None:
    offer(RUNTIME)
    waiting = queue()
    answer = api.post(f"/v1/jobs/{waiting}/cancel")
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert (job["status"], job["finished"], job["problem"]["code"]) == ("cancelled", True, "cancelled")
    assert job["finished_at"] is not None
    assert job["queue_seconds"] is None
    assert_problem(api.post(f"/v1/jobs/{waiting}/cancel"), 409, "conflict")
    assert claim(waiting) is None

    running = queue()
    attempt = claim(running)
    assert attempt == 1
    for _ in range(2):
        job = api.post(f"/v1/jobs/{running}/cancel").json()
        assert (job["status"], job["finished"]) == ("cancelling", False)
    assert finish(running, attempt, JobStatus.CANCELLED)
    assert said(running) == ["queued", "running", "cancelling", "cancelled"]

    late = queue()
    attempt = claim(late)
    assert attempt is not None
    api.post(f"/v1/jobs/{late}/cancel")
    assert finish(late, attempt)  # the result was there before the cancel reached the worker
    assert status_of(late) == "succeeded"


def test_cancel_races_with_claim(burnish: Settings) -> None:
    offer(RUNTIME)
    seen = set()
    for _ in range(12):
        job_id = queue()
        attempt, status = at_once(lambda job_id=job_id: claim(job_id), lambda job_id=job_id: cancel(job_id))
        seen.add(attempt)
        assert (attempt, status, status_of(job_id)) in {
            (None, JobStatus.CANCELLED, "cancelled"),
            (1, JobStatus.CANCELLING, "cancelling"),
        }
    assert seen <= {None, 1}


def test_cancel_races_with_the_end(burnish: Settings) -> None:
    offer(RUNTIME)
    for _ in range(12):
        job_id = queue()
        attempt = claim(job_id)
        assert attempt is not None
        ended, cancelled = at_once(
            lambda job_id=job_id, attempt=attempt: finish(job_id, attempt),
            lambda job_id=job_id: cancel(job_id),
        )
        assert ended is True
        assert isinstance(cancelled, Conflict) or cancelled == JobStatus.CANCELLING
        assert status_of(job_id) == "succeeded"


def test_one_cancel_of_many_writes(burnish: Settings) -> None:
    offer(RUNTIME)
    job_id = queue()
    results = at_once(*[lambda: cancel(job_id)] * 6)
    assert sorted(map(str, results)).count("cancelled") == 1
    assert sum(isinstance(result, Conflict) for result in results) == 5
    assert said(job_id) == ["queued", "cancelled"]


def test_retry_makes_a_new_job(api: TestClient) -> None:
    offer(RUNTIME)
    old = queue(name="again", labels={"team": "vision"}, options={"seed": 7})
    assert_problem(api.post(f"/v1/jobs/{old}/retry"), 409, "conflict")
    attempt = claim(old)
    assert attempt is not None
    assert finish(old, attempt, JobStatus.FAILED, problem=PROBLEM)
    answer = api.post(f"/v1/jobs/{old}/retry", headers={"Idempotency-Key": "r1"})
    assert answer.status_code == 202, answer.text
    new, before = answer.json(), api.get(f"/v1/jobs/{old}").json()
    assert new["id"] != old
    assert answer.headers["location"] == f"/v1/jobs/{new['id']}"
    assert (new["retry_of"], new["status"], new["attempt"], new["problem"]) == (old, "queued", 0, None)
    for field in ("subject", "recipe", "targets", "options", "limits", "labels", "name"):
        assert new[field] == before[field]
    assert api.post(f"/v1/jobs/{old}/retry", headers={"Idempotency-Key": "r1"}).json() == new


def test_delete_takes_everything_that_was_the_jobs(api: TestClient) -> None:
    offer(RUNTIME)
    job_id = queue()
    assert_problem(api.delete(f"/v1/jobs/{job_id}"), 409, "conflict")
    attempt = claim(job_id)
    assert attempt is not None
    step = {
        "index": 0,
        "name": "pass:simplify",
        "status": "done",
        "cached": False,
        "seconds": 1.5,
        "key": "0" * 64,
        "facts": {},
    }
    with transaction() as session:
        assert lease.record_step(session, job_id, attempt, step)
        assert logs.append_log(session, job_id, attempt, "line 1\n", 10_000)
        assert logs.append_log(session, job_id, attempt, "line 2\n", 10_000)
    artifact = make_artifact(job_id)
    assert finish(job_id, attempt, result={"artifacts": {"engine": artifact}})
    job = api.get(f"/v1/jobs/{job_id}").json()
    assert job["steps"] == [
        {"name": "pass:simplify", "status": "done", "cached": False, "seconds": 1.5, "key": "0" * 64}
    ]
    assert job["queue_seconds"] >= 0
    logs_answer = api.get(f"/v1/jobs/{job_id}/logs")
    assert logs_answer.headers["content-type"].startswith("text/plain")
    assert logs_answer.text == "line 1\nline 2\n"
    assert [item["id"] for item in api.get(f"/v1/jobs/{job_id}/artifacts").json()["items"]] == [artifact]

    assert api.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert_problem(api.get(f"/v1/jobs/{job_id}"), 404, "not_found")
    assert_problem(api.get(f"/v1/artifacts/{artifact}"), 404, "not_found")
    with transaction(readonly=True) as session:
        for table in (Job, JobStep, JobLog, Event, Artifact, ArtifactInput):
            assert session.scalars(select(table)).all() == []


def test_a_job_whose_artifact_is_anothers_subject_stays(api: TestClient) -> None:
    offer(RUNTIME)
    first = queue()
    attempt = claim(first)
    assert attempt is not None
    artifact = make_artifact(first)
    assert finish(first, attempt)
    second = queue()
    with transaction() as session:
        session.get_one(Job, second).subject = artifact
    problem = assert_problem(api.delete(f"/v1/jobs/{first}"), 409, "conflict")
    assert second in problem["detail"]
    assert api.get(f"/v1/artifacts/{artifact}").status_code == 200


def test_a_parent_holds_no_worker_and_ends_by_its_children(api: TestClient) -> None:
    parent, children = queue_family()
    job = api.get(f"/v1/jobs/{parent}").json()
    assert (job["status"], job["stage"], len(job["targets"])) == ("running", "children", 2)
    assert job["progress"] == {"done": 0, "total": 2, "message": "targets"}
    assert claim(parent) is None
    assert queue_depth(f"runtime.{RUNTIME}") == 2
    threads = []
    for child in children:
        told = api.get(f"/v1/jobs/{child}").json()
        assert (told["parent"], told["status"], told["children"]) == (parent, "queued", [])
        threads.append(told["targets"][0]["params"]["threads"])
    assert threads == [1, 2]
    assert {item["id"] for item in api.get(f"/v1/jobs?parent={parent}").json()["items"]} == set(children)

    with transaction() as session:
        assert lease.expire(session, 3) == []
    for done, child in enumerate(children, 1):
        attempt = claim(child)
        assert attempt is not None
        assert finish(child, attempt)
        assert api.get(f"/v1/jobs/{parent}").json()["progress"]["done"] == done
    job = api.get(f"/v1/jobs/{parent}").json()
    assert (job["status"], job["finished"], job["problem"]) == ("succeeded", True, None)
    assert said(parent) == ["running", "succeeded"]


def test_a_parent_says_which_child_failed(api: TestClient) -> None:
    parent, (first, second) = queue_family()
    for child, status, problem in (
        (first, JobStatus.SUCCEEDED, None),
        (second, JobStatus.FAILED, PROBLEM),
    ):
        attempt = claim(child)
        assert attempt is not None
        assert finish(child, attempt, status, problem=problem)
    job = api.get(f"/v1/jobs/{parent}").json()
    assert (job["status"], job["problem"]["code"]) == ("failed", "crashed")
    assert "1 of 2 targets" in job["problem"]["detail"]
    assert [error["job"] for error in job["problem"]["errors"]] == [second]


def test_cancelling_a_parent_cancels_its_children(api: TestClient) -> None:
    parent, (first, second) = queue_family()
    attempt = claim(first)
    assert attempt is not None
    job = api.post(f"/v1/jobs/{parent}/cancel").json()
    assert job["status"] == "cancelling"
    assert (status_of(first), status_of(second)) == ("cancelling", "cancelled")
    assert finish(first, attempt, JobStatus.CANCELLED, problem=PROBLEM)
    assert status_of(parent) == "cancelled"

    parent, children = queue_family()
    job = api.post(f"/v1/jobs/{parent}/cancel").json()
    assert (job["status"], job["progress"]["done"]) == ("cancelled", 2)
    assert {status_of(child) for child in children} == {"cancelled"}
    assert api.delete(f"/v1/jobs/{parent}").status_code == 204
    for child in children:
        assert_problem(api.get(f"/v1/jobs/{child}"), 404, "not_found")


def test_a_parent_is_retried_with_all_its_targets(api: TestClient) -> None:
    parent, _ = queue_family()
    api.post(f"/v1/jobs/{parent}/cancel")
    job = api.post(f"/v1/jobs/{parent}/retry").json()
    assert (job["retry_of"], job["status"], len(job["children"])) == (parent, "running", 2)
    assert job["targets"] == api.get(f"/v1/jobs/{parent}").json()["targets"]


def test_children_that_end_at_once_end_the_parent_once(burnish: Settings) -> None:
    for _ in range(4):
        parent, children = queue_family(4)
        attempts = {child: claim(child) for child in children}
        ends = at_once(
            *[lambda c=child, a=attempt: finish(c, a) for child, attempt in attempts.items() if attempt]
        )
        assert ends == [True] * 4
        assert said(parent) == ["running", "succeeded"]


def test_the_sweep_settles_a_parent_that_a_crash_left_behind(
    burnish: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, children = queue_family()
    # the process dies between the child's commit and what follows it
    monkeypatch.setattr(changes, "_settle_parent", lambda parent_id: None)
    for child in children:
        attempt = claim(child)
        assert attempt is not None
        assert finish(child, attempt)
    assert status_of(parent) == "running"
    with transaction() as session:
        assert lease.expire(session, 3) == [parent]
    assert status_of(parent) == "succeeded"


def test_the_pending_limit_of_a_child_ends_the_parent(burnish: Settings) -> None:
    parent, children = queue_family()
    with transaction() as session:
        for child in children:
            session.get_one(Job, child).pending_until = db_now(-1)
    with transaction() as session:
        assert set(lease.expire(session, 3)) >= set(children)
    assert {status_of(job) for job in (parent, *children)} == {"timed_out"}


def test_a_model_is_deleted_or_used_but_not_both(burnish: Settings) -> None:
    offer(RUNTIME)

    def remove(model: str) -> None:
        with transaction() as session:
            models.delete_model(session, DEFAULT_PROJECT, model)

    for _ in range(10):
        model = make_model()
        removed, queued = at_once(lambda m=model: remove(m), lambda m=model: queue(m))
        if isinstance(queued, str):
            assert isinstance(removed, Conflict)
        else:
            assert removed is None
            assert isinstance(queued, NotFound)
