"""What a project may use is held, however many ask at once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from app.auth import quotas
from app.auth.tables import DEFAULT_PROJECT, Project
from app.config import Settings
from app.db import db_now, transaction
from app.errors import QuotaExceeded
from app.jobs import lease
from app.jobs.schemas import read_request
from app.jobs.service import submit
from app.jobs.tables import Job, StepResult
from app.main import create_app
from app.queue import queue_depth
from app.uploads.tables import Upload
from tests.app.api.support import assert_problem, bearer, make_key
from tests.app.jobs.factories import (
    RUNTIME,
    claim,
    finish,
    make_artifact,
    make_model,
    offer,
    optimize,
    sha,
    status_of,
)
from tests.app.users.routes import make_job

QUEUE = f"runtime.{RUNTIME}"


@pytest.fixture
def api(burnish: Settings) -> Iterator[TestClient]:
    """A client with an admin key, on both databases in turn; a worker is there."""
    offer(RUNTIME)
    with TestClient(create_app(), headers=bearer(make_key("admin"))) as client:
        yield client


@pytest.fixture
def api_sqlite(burnish_sqlite: Settings) -> Iterator[TestClient]:
    offer(RUNTIME)
    with TestClient(create_app(), headers=bearer(make_key("admin"))) as client:
        yield client


def limit(project: str = DEFAULT_PROJECT, **limits: int | None) -> None:
    with transaction() as session:
        row = session.get_one(Project, project)
        for name, value in limits.items():
            setattr(row, name, value)


def claim_next(rung: str) -> str | None:
    with transaction() as session:
        job = lease.claim_next(session, rung, "wrk_test", 30)
        return None if job is None else job.id


def step(key: str, size_bytes: int, used_seconds_ago: float = 0) -> None:
    with transaction() as session:
        session.add(
            StepResult(
                project_id=DEFAULT_PROJECT,
                key=sha(key),
                name="simplify",
                digest=sha("tree" + key),
                size_bytes=size_bytes,
                facts={},
                seconds=1.0,
                last_used_at=db_now(-used_seconds_ago),
            )
        )


def upload(api: TestClient, size_bytes: int) -> Any:
    return api.post("/v1/models", files={"file": ("m.onnx", b"x" * size_bytes)})


# --- jobs that wait


def test_twenty_at_once_queue_as_many_as_may(api: TestClient) -> None:
    limit(max_queued_jobs=5)
    model = make_model()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: api.post("/v1/jobs", json=optimize(model)), range(20)))
    assert sorted(answer.status_code for answer in answers) == [202] * 5 + [429] * 15
    problem = assert_problem(next(one for one in answers if one.status_code == 429), 429, "quota_exceeded")
    assert problem["detail"].startswith("5 jobs of the project wait, 5 may")
    assert "hint" in problem
    with transaction(readonly=True) as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 5


def test_each_target_of_a_job_waits(api_sqlite: TestClient) -> None:
    limit(max_queued_jobs=3)
    body = optimize(make_model(), targets=[RUNTIME, {"runtime": RUNTIME, "params": {"threads": 2}}])
    assert api_sqlite.post("/v1/jobs", json=body).status_code == 202
    refused = assert_problem(api_sqlite.post("/v1/jobs", json=body), 429, "quota_exceeded")
    assert "2 targets" in refused["detail"]
    assert api_sqlite.get("/v1/usage").json()["queued_jobs"] == 2  # nothing half was left behind


def test_a_job_that_was_claimed_waits_no_more(api_sqlite: TestClient) -> None:
    limit(max_queued_jobs=1)
    model = make_model()
    first = api_sqlite.post("/v1/jobs", json=optimize(model)).json()["id"]
    assert api_sqlite.post("/v1/jobs", json=optimize(model)).status_code == 429
    assert claim_next(first) == first
    assert api_sqlite.post("/v1/jobs", json=optimize(model)).status_code == 202


# --- jobs that run


def test_workers_that_claim_at_once_run_no_more_than_may(burnish: Settings) -> None:
    offer(RUNTIME)
    limit(max_running_jobs=3)
    jobs = [make_job() for _ in range(12)]
    with ThreadPoolExecutor(12) as pool:
        claimed = [id_ for id_ in pool.map(claim_next, jobs) if id_ is not None]
    assert sorted(claimed) == sorted(jobs[:3])
    assert finish(jobs[0], 1)
    assert claim_next(jobs[0]) == jobs[3]
    assert claim_next(jobs[4]) is None


def test_the_next_is_rung_for_when_one_ends(burnish: Settings) -> None:
    offer(RUNTIME)
    limit(max_running_jobs=1)
    first, second = make_job(), make_job()
    assert claim_next(first) == first
    depth = queue_depth(QUEUE)
    assert finish(first, 1)
    assert queue_depth(QUEUE) == depth + 1
    limit(max_running_jobs=None)
    assert claim_next(second) == second
    assert finish(second, 1)
    third, _ = make_job(), make_job()
    assert claim_next(third) == third
    depth = queue_depth(QUEUE)
    assert finish(third, 1)
    assert queue_depth(QUEUE) == depth  # nobody had to wait: their own messages are there


@pytest.mark.parametrize("everybodys", [0, 1])
def test_nobody_is_rung_for_who_may_not_run(
    burnish: Settings, monkeypatch: pytest.MonkeyPatch, everybodys: int
) -> None:
    monkeypatch.setattr(burnish, "project_max_running_jobs", everybodys)
    offer(RUNTIME)
    limit(max_running_jobs=None if everybodys else 1)
    first, second = make_job(), make_job()

    def to_ring_again() -> list[str]:
        with transaction() as session:
            session.execute(update(Job).values(sent_at=db_now(-60)))
            waiting = lease.queued_by_queue(session, 30).get(QUEUE, 0)
            stale = lease.stale_queued(session, QUEUE, 30)
        assert len(stale) == waiting
        return sorted(stale)

    assert to_ring_again() == sorted([first, second])
    assert claim_next(first) == first
    assert to_ring_again() == []
    assert finish(first, 1)
    assert to_ring_again() == [second]


@pytest.mark.parametrize(("own", "everybodys", "allowed"), [(None, 2, 2), (1, 2, 1), (0, 2, 4), (None, 0, 4)])
def test_a_limit_of_its_own_comes_before_the_installations(
    burnish_sqlite: Settings, monkeypatch: pytest.MonkeyPatch, own: int | None, everybodys: int, allowed: int
) -> None:
    monkeypatch.setattr(burnish_sqlite, "project_max_running_jobs", everybodys)
    offer(RUNTIME)
    limit(max_running_jobs=own)
    jobs = [make_job() for _ in range(4)]
    assert len([id_ for id_ in map(claim_next, jobs) if id_ is not None]) == allowed


# --- bytes that are stored


def test_an_upload_over_the_quota_leaves_no_row(api: TestClient) -> None:
    limit(max_stored_bytes=10_000)
    for _ in range(2):
        assert upload(api, 4_000).status_code == 201  # the same bytes again are stored once
    refused = assert_problem(upload(api, 6_001), 429, "quota_exceeded")
    assert "10000 bytes" in refused["detail"]
    usage = api.get("/v1/usage").json()
    assert (usage["models"], usage["stored_bytes"], usage["limits"]["max_stored_bytes"]) == (2, 4_000, 10_000)


def test_uploads_at_once_cannot_pass_the_quota_together(burnish: Settings) -> None:
    limit(max_stored_bytes=20_000)

    def add(number: int) -> bool:
        try:
            with transaction() as session:
                session.add(Upload(id=f"upl_{number}", project_id=DEFAULT_PROJECT, name="m", offset_bytes=4_000,
                                   expires_at=db_now(60)))  # fmt: skip
                session.flush()
                quotas.check_storage(session, DEFAULT_PROJECT, 0)
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(add, range(10))) == 5


def test_an_upload_that_announces_too_much_is_refused_before_it_begins(api_sqlite: TestClient) -> None:
    limit(max_stored_bytes=10_000)
    body = {"name": "m.onnx", "size_bytes": 10_001}
    assert_problem(api_sqlite.post("/v1/uploads", json=body), 429, "quota_exceeded")
    made = api_sqlite.post("/v1/uploads", json={"name": "m.onnx"}).json()["id"]
    append = {"Upload-Offset": "0", "Content-Type": "application/partial-upload"}
    at = f"/v1/uploads/{made}"
    assert_problem(api_sqlite.patch(at, content=b"x" * 10_001, headers=append), 429, "quota_exceeded")
    assert api_sqlite.patch(at, content=b"x" * 4_000, headers=append).status_code == 204
    usage = api_sqlite.get("/v1/usage").json()
    assert (usage["stored_bytes"], usage["open_uploads"]) == (4_000, 1)
    assert upload(api_sqlite, 6_001).status_code == 429
    assert upload(api_sqlite, 6_000).status_code == 201


def test_stored_steps_give_way(api: TestClient) -> None:
    limit(max_stored_bytes=10_000)
    for key, used in (("old", 300), ("older", 400), ("new", 1)):
        step(key, 3_000, used)
    assert upload(api, 4_000).status_code == 201
    with transaction(readonly=True) as session:
        assert set(session.scalars(select(StepResult.key))) == {sha("old"), sha("new")}
    assert upload(api, 10_001).status_code == 429  # and nothing was forgotten for what did not fit anyway
    with transaction(readonly=True) as session:
        assert len(session.scalars(select(StepResult.key)).all()) == 2


def test_steps_of_jobs_that_run_do_not_give_way(api_sqlite: TestClient) -> None:
    job = make_job()
    assert claim(job) == 1
    step("taken", 5_000)
    limit(max_stored_bytes=4_000 + 5_000)
    assert upload(api_sqlite, 1_000).status_code == 429
    assert finish(job, 1)


# --- what was used


def test_usage_counts_what_ran_even_where_the_job_is_deleted(api: TestClient) -> None:
    job = make_job()
    assert claim(job) == 1
    running = api.get("/v1/usage").json()
    assert (running["running_jobs"], running["jobs"]) == (1, {"running": 1})
    assert finish(job, 1)
    with transaction(readonly=True) as session:
        row = session.get_one(Job, job)
        assert row.finished_at is not None
        assert row.started_at is not None
        seconds = (row.finished_at - row.started_at).total_seconds()
    assert api.delete(f"/v1/jobs/{job}").status_code == 204
    consumed = api.get("/v1/usage").json()["consumed"]
    assert consumed["jobs"] == 1
    assert consumed["compute_seconds"] == pytest.approx(seconds)
    long_ago = {"from": "2020-01-01T00:00:00Z", "to": "2020-02-01T00:00:00Z"}
    assert api.get("/v1/usage", params=long_ago).json()["consumed"] == {
        "from": "2020-01-01T00:00:00.000Z", "to": "2020-02-01T00:00:00.000Z", "jobs": 0, "compute_seconds": 0.0,
    }  # fmt: skip
    wrong = {"from": "2020-02-01T00:00:00Z", "to": "2020-01-01T00:00:00Z"}
    assert_problem(api.get("/v1/usage", params=wrong), 422, "invalid_params")


def test_a_job_that_never_ran_used_nothing(api_sqlite: TestClient) -> None:
    job = make_job()
    assert api_sqlite.post(f"/v1/jobs/{job}/cancel").status_code == 202
    assert status_of(job) == "cancelled"
    assert api_sqlite.get("/v1/usage").json()["consumed"]["jobs"] == 0


def test_artifacts_count(api_sqlite: TestClient) -> None:
    make_artifact(make_job(), b"12345")
    with transaction(readonly=True) as session:
        assert quotas.stored_bytes(session, DEFAULT_PROJECT) == 4_000 + 5


def test_submitting_from_a_script_is_held_too(burnish_sqlite: Settings) -> None:
    offer(RUNTIME)
    limit(max_queued_jobs=1)
    request = read_request(optimize(make_model()))
    with transaction() as session:
        submit(session, DEFAULT_PROJECT, request)
    with pytest.raises(QuotaExceeded), transaction() as session:
        submit(session, DEFAULT_PROJECT, request)
