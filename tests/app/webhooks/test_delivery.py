"""Messages to webhooks: written with a job's end, signed, sent, tried again, given up."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import standardwebhooks
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.auth.tables import DEFAULT_PROJECT
from app.config import Settings
from app.db import transaction
from app.errors import Conflict
from app.jobs import changes, lease
from app.jobs.status import JobStatus
from app.jobs.tables import Job
from app.webhooks import outbox, retries, service
from app.webhooks.sender import _claim, _settle
from app.webhooks.tables import Webhook, WebhookDelivery
from app.webhooks.transport import Outcome
from tests.app.api.support import make_project
from tests.app.jobs.factories import RUNTIME, claim, finish, make_model, offer, optimize
from tests.app.webhooks.receiver import Receiver


def create(api: TestClient, url: str) -> dict[str, Any]:
    answer = api.post("/v1/webhooks", json={"url": url})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def deliveries(api: TestClient, webhook: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(f"/v1/webhooks/{webhook}/deliveries").json()["items"]
    return found


def until(api: TestClient, webhook: str, **expected: Any) -> dict[str, Any]:
    """The newest delivery, once it is as expected."""
    end = time.monotonic() + 30
    while True:
        newest = deliveries(api, webhook)[0]
        if {name: newest[name] for name in expected} == expected:
            return newest
        assert time.monotonic() < end, newest
        time.sleep(0.05)


def submit(api: TestClient, **fields: Any) -> dict[str, Any]:
    offer(RUNTIME)
    answer = api.post("/v1/jobs", json=optimize(make_model(), **fields))
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def be_due() -> None:
    """Whatever waits, waits no longer."""
    with transaction() as session:
        session.execute(update(WebhookDelivery).values(due_at=datetime.now(UTC) - timedelta(seconds=1)))


def test_the_end_of_a_job_is_told_and_signed(api: TestClient, receiver: Receiver) -> None:
    webhook = create(api, f"{receiver.url}/hook?token=1")
    job = submit(api, name="näme", labels={"team": "vision"})
    attempt = claim(job["id"])
    assert attempt is not None
    problem = {"code": "out_of_memory", "detail": "not told"}
    assert finish(job["id"], attempt, JobStatus.FAILED, problem=problem)
    [(headers, body)] = receiver.wait(1)
    said = standardwebhooks.Webhook(webhook["secret"]).verify(body, headers)
    assert said["type"] == "job.finished"
    assert said["timestamp"].endswith("Z")
    data = said["data"]
    assert data.pop("started_at")
    assert data == {
        "id": job["id"], "kind": "optimize", "name": "näme", "labels": {"team": "vision"}, "status": "failed",
        "problem_code": "out_of_memory", "subject": job["subject"], "parent": None, "created_at": job["created_at"],
        "finished_at": api.get(f"/v1/jobs/{job['id']}").json()["finished_at"], "url": job["url"],
    }  # fmt: skip
    assert headers["Content-Type"] == "application/json"
    assert headers["Host"] == f"127.0.0.1:{receiver.port}"
    told = until(api, webhook["id"], status="delivered")
    assert (told["id"], told["job_id"], told["attempts"], told["answer_status"]) == (
        headers["webhook-id"], job["id"], 1, 200,
    )  # fmt: skip
    assert told["next_attempt_at"] is None
    assert told["delivered_at"]
    assert "secret" not in told
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(webhook["secret"]).verify(body + b" ", headers)


def test_parents_children_and_cancelled_jobs_are_told_of_too(
    api_sqlite: TestClient, receiver: Receiver
) -> None:
    create(api_sqlite, receiver.url)
    parent = submit(api_sqlite, targets=[RUNTIME, RUNTIME])
    api_sqlite.post(f"/v1/jobs/{parent['id']}/cancel")
    messages = receiver.wait(3)
    told = [standardwebhooks.webhooks.json.loads(body)["data"] for _, body in messages]
    assert {each["id"]: each["parent"] for each in told} == {
        parent["id"]: None,
        **dict.fromkeys(parent["children"], parent["id"]),
    }
    assert {each["status"] for each in told} == {"cancelled"}


def test_the_message_is_written_with_the_end_or_not_at_all(burnish: Settings) -> None:
    with transaction() as session:
        service.create(session, DEFAULT_PROJECT, "https://93.184.216.34/hook")
    job_id = _job()
    attempt = claim(job_id)
    assert attempt is not None

    def end_and_fail() -> None:
        with transaction() as session:
            job = lease.hold(session, job_id, attempt)
            assert job is not None
            changes.end(session, job, JobStatus.SUCCEEDED)
            raise Conflict("something else fails in this transaction")

    with pytest.raises(Conflict):
        end_and_fail()
    assert _all() == []
    assert finish(job_id, attempt)
    assert [row.status for row in _all()] == ["waiting"]


def test_a_refused_message_is_tried_again_under_the_same_id(
    api_sqlite: TestClient, receiver: Receiver
) -> None:
    receiver.statuses = [500, 302, 204]
    webhook = create(api_sqlite, receiver.url)["id"]
    assert api_sqlite.post(f"/v1/webhooks/{webhook}/test").status_code == 202
    first = until(api_sqlite, webhook, attempts=1, answer_status=500)
    assert (first["status"], first["problem"]) == ("waiting", "the answer was 500")
    assert "secret" not in str(first)
    be_due()
    second = until(api_sqlite, webhook, attempts=2, answer_status=302)
    assert "redirects are not followed" in second["problem"]
    be_due()
    assert until(api_sqlite, webhook, attempts=3, status="delivered")["problem"] is None
    ids = {headers["webhook-id"] for headers, _ in receiver.wait(3)}
    assert ids == {first["id"]}
    assert len(receiver.messages) == 3


def test_it_is_given_up_after_three_days_or_where_the_receiver_says_that_it_is_gone(
    api_sqlite: TestClient, receiver: Receiver
) -> None:
    webhook = create(api_sqlite, receiver.url)["id"]
    receiver.statuses = [410, 503]
    api_sqlite.post(f"/v1/webhooks/{webhook}/test")
    assert until(api_sqlite, webhook, status="given_up")["attempts"] == 1
    with transaction() as session:
        outbox.add(session, DEFAULT_PROJECT, webhook, outbox.TEST, {}).attempts = 9
    assert until(api_sqlite, webhook, status="given_up")["attempts"] == 10


def test_the_pauses_grow_to_a_day_and_differ() -> None:
    pauses = [retries.pause_seconds(attempts) for attempts in range(1, 11)]
    assert pauses[9] is None
    known = [pause for pause in pauses if pause is not None]
    planned = list(retries.PAUSES_SECONDS)
    assert planned == sorted(
        planned
    )  # those that are drawn overlap: 20 hours and a fifth are more than 24 less one
    assert len(known) == len(planned)
    for drawn, pause in zip(known, planned, strict=True):
        assert 0.8 * pause <= drawn <= 1.2 * pause
    assert 2.5 * 86_400 < sum(known) < 4 * 86_400
    assert len({retries.pause_seconds(5) for _ in range(5)}) > 1


def test_each_message_goes_to_one_of_several_processes(burnish: Settings) -> None:
    with transaction() as session:
        for number in range(6):
            webhook = service.create(session, DEFAULT_PROJECT, f"https://hooks{number}.example.org")
            for _ in range(10):
                outbox.add(session, DEFAULT_PROJECT, webhook.id, outbox.TEST, {})

    def work(_: int) -> list[str]:
        mine = []
        while claimed := _claim(20, {}):
            counts = [sum(other.webhook_id == each.webhook_id for other in claimed) for each in claimed]
            assert max(counts) <= service.AT_ONCE
            for attempt in claimed:
                assert attempt.number == 1
                mine.append(attempt.delivery_id)
                _settle(attempt, Outcome(200, None))
        return mine

    with ThreadPoolExecutor(4) as pool:
        taken = [id_ for mine in pool.map(work, range(4)) for id_ in mine]
    assert sorted(taken) == sorted(row.id for row in _all())
    assert {row.status for row in _all()} == {"delivered"}


def test_an_attempt_that_died_with_its_process_is_made_again(burnish: Settings) -> None:
    with transaction() as session:
        webhook = service.create(session, DEFAULT_PROJECT, "https://hooks.example.org").id
        outbox.add(session, DEFAULT_PROJECT, webhook, outbox.TEST, {})
    [dead] = _claim(20, {})
    assert _claim(20, {}) == []
    be_due()
    assert _claim(20, {webhook: service.AT_ONCE}) == []
    [again] = _claim(20, {})
    assert (again.delivery_id, again.number) == (dead.delivery_id, 2)
    _settle(dead, Outcome(None, "what it says counts no more"))
    assert [(row.status, row.problem) for row in _all()] == [("waiting", None)]
    _settle(again, Outcome(200, None))
    _settle(dead, Outcome(None, "nor after it was delivered"))
    assert [(row.status, row.problem) for row in _all()] == [("delivered", None)]


def test_messages_go_with_their_webhook(burnish: Settings) -> None:
    with transaction() as session:
        webhook = service.create(session, DEFAULT_PROJECT, "https://hooks.example.org").id
        outbox.add(session, DEFAULT_PROJECT, webhook, outbox.TEST, {})
    [attempt] = _claim(20, {})
    with transaction() as session:
        service.remove(session, DEFAULT_PROJECT, webhook)
    _settle(attempt, Outcome(200, None))
    assert _all() == []


def _all() -> list[WebhookDelivery]:
    with transaction(readonly=True) as session:
        rows = session.query(WebhookDelivery).all()
        session.expunge_all()
        return rows


def _job() -> str:
    model = make_model()
    with transaction() as session:
        job = Job(
            id="job_1", project_id=DEFAULT_PROJECT, kind="optimize", labels={}, status="queued", progress={},
            request={"limits": {"running_seconds": 60}}, subject=model, subject_digest="0" * 64, datasets=[], queue="q",
            pending_until=datetime.now(UTC) + timedelta(hours=1),
        )  # fmt: skip
        session.add(job)
    return job.id


def test_a_webhook_of_another_project_hears_nothing(burnish_sqlite: Settings) -> None:
    other = make_project("other")
    with transaction() as session:
        session.add(Webhook(id="whk_1", project_id=other, url="https://example.org", secret="s"))
    job_id = _job()
    attempt = claim(job_id)
    assert attempt is not None
    assert finish(job_id, attempt)
    assert _all() == []
