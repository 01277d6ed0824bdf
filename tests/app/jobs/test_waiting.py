"""Long polls and event streams over a real socket; the notifier that both wait on."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.auth.tables import DEFAULT_PROJECT
from app.config import Settings
from app.db import get_engine, transaction
from app.errors import Unavailable
from app.events import notifier, service
from app.jobs import lease, stream
from app.jobs.status import JobStatus
from tests.app.api.support import Server, assert_problem, bearer
from tests.app.jobs.factories import RUNTIME, claim, finish, make_model, offer, optimize

LONG = 50.0  # far longer than anything here takes


def submit(server: Server) -> str:
    offer(RUNTIME)
    answer = server.client.post("/v1/jobs", json=optimize(make_model()))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def later(seconds: float, action: Any) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def report(job_id: str, attempt: int, done: int) -> None:
    with transaction() as session:
        said = {"done": done, "total": 10, "message": "samples"}
        assert lease.progress(session, job_id, attempt, "measuring", said)


def record(subject: str, text: str = "x") -> None:
    with transaction() as session:
        service.record(session, DEFAULT_PROJECT, subject, "note", {"text": text})


def parse(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Server-sent events: their fields, comments left out."""
    event: dict[str, Any] = {}
    for line in lines:
        if not line:
            if "data" in event:
                yield {**event, "data": json.loads(event["data"])}
            event = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


def test_wait_answers_as_soon_as_the_job_changes(server: Server) -> None:
    job_id = submit(server)
    started = time.monotonic()
    timer = later(0.3, lambda: claim(job_id))
    job = server.client.get(f"/v1/jobs/{job_id}?wait={LONG}").json()
    timer.join()
    assert job["status"] == "running"
    assert time.monotonic() - started < LONG / 5
    later(0.3, lambda: report(job_id, 1, 5))
    job = server.client.get(f"/v1/jobs/{job_id}?wait={LONG}").json()
    assert job["progress"] == {"done": 5, "total": 10, "message": "samples"}
    later(0.3, lambda: finish(job_id, 1))
    assert server.client.get(f"/v1/jobs/{job_id}?wait={LONG}").json()["finished"]
    assert server.client.get(f"/v1/jobs/{job_id}?wait={LONG}").json()["finished"]
    assert time.monotonic() - started < LONG / 2


def test_wait_ends_with_its_time_and_with_the_job(server: Server) -> None:
    job_id = submit(server)
    job = server.client.get(f"/v1/jobs/{job_id}?wait=0.3").json()
    assert job["status"] == "queued"
    assert_problem(server.client.get(f"/v1/jobs/{job_id}?wait=x"), 422, "invalid_params")
    server.client.post(f"/v1/jobs/{job_id}/cancel")
    other = submit(server)

    def remove() -> None:
        server.client.post(f"/v1/jobs/{other}/cancel")
        assert server.client.delete(f"/v1/jobs/{other}").status_code == 204

    timer = later(0.3, remove)
    answer = httpx.get(
        f"http://{server.host}:{server.port}/v1/jobs/{other}?wait={LONG}",
        headers=bearer(server.key),
        timeout=60,
        trust_env=False,
    )
    timer.join()
    assert answer.status_code == 404 or answer.json()["status"] == "cancelled"


def test_many_waiters_hold_no_session_and_no_thread(server: Server) -> None:
    job_id = submit(server)
    count = 120

    async def wait_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        base = f"http://{server.host}:{server.port}"
        async with httpx.AsyncClient(
            base_url=base, headers=bearer(server.key), timeout=120, limits=limits, trust_env=False
        ) as client:
            waiting = [
                asyncio.create_task(client.get(f"/v1/jobs/{job_id}?wait={LONG}")) for _ in range(count)
            ]
            deadline = time.monotonic() + 40
            while len(_waiters()) < count and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
            assert len(_waiters()) == count
            held = {get_engine().pool.checkedout() for _ in range(20) if not time.sleep(0.005)}  # type: ignore[attr-defined]
            assert min(held) == 0  # the notifier's own read comes and goes
            assert (await client.get("/v1/jobs")).status_code == 200  # threads are free
            await asyncio.to_thread(claim, job_id)
            return await asyncio.gather(*waiting)

    answers = asyncio.run(wait_all())
    assert {answer.json()["status"] for answer in answers} == {"running"}


def _waiters() -> list[Any]:
    current = notifier._current
    return [] if current is None else list(current._waiters)


def test_a_stream_tells_everything_and_ends(server: Server) -> None:
    job_id = submit(server)

    def work() -> None:
        attempt = claim(job_id)
        assert attempt is not None
        for done in range(3):
            report(job_id, attempt, done)
        finish(job_id, attempt)

    timer = later(0.3, work)
    with server.client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        seen = list(parse(answer.iter_lines()))
    timer.join()
    assert [int(event["id"]) for event in seen] == [1, 2, 3, 4, 5, 6]
    assert [event["event"] for event in seen] == ["status"] * 2 + ["progress"] * 3 + ["status"]
    assert [event["data"].get("done") for event in seen[2:5]] == [0, 1, 2]
    assert (seen[-1]["data"]["status"], seen[-1]["data"]["finished"]) == ("succeeded", True)
    assert seen[0]["data"]["at"].endswith("Z")


def test_a_stream_resumes_behind_the_last_event(server: Server) -> None:
    job_id = submit(server)
    attempt = claim(job_id)
    assert attempt is not None
    first: list[str] = []
    with server.client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        for event in parse(answer.iter_lines()):
            first.append(event["id"])
            if len(first) == 2:
                break  # the connection is cut here
    report(job_id, attempt, 1)
    timer = later(0.3, lambda: finish(job_id, attempt))
    path = f"/v1/jobs/{job_id}/events"
    with server.client.stream("GET", path, headers={"Last-Event-ID": first[-1]}) as answer:
        rest = [event["id"] for event in parse(answer.iter_lines())]
    timer.join()
    assert first + rest == ["1", "2", "3", "4"]
    with server.client.stream("GET", f"{path}?last_event_id=3") as answer:
        assert [event["id"] for event in parse(answer.iter_lines())] == ["4"]
    assert server.client.get(path, headers={"Last-Event-ID": "4"}).status_code == 204
    assert server.client.get(path, headers={"Last-Event-ID": "4000"}).status_code == 204
    assert_problem(server.client.get(path, headers={"Last-Event-ID": "x"}), 422, "invalid_params")


def test_a_number_that_is_not_there_yet_does_not_hide_events(server: Server) -> None:
    job_id = submit(server)
    timer = later(0.5, lambda: server.client.post(f"/v1/jobs/{job_id}/cancel"))
    headers = {"Last-Event-ID": "4000", **bearer(server.key)}
    url = f"http://{server.host}:{server.port}/v1/jobs/{job_id}/events"
    with httpx.stream("GET", url, headers=headers, timeout=60, trust_env=False) as answer:
        seen = list(parse(answer.iter_lines()))
    timer.join()
    assert [event["data"]["status"] for event in seen] == ["cancelled"]


def test_a_silent_stream_is_kept_open_by_comments(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.1)
    job_id = submit(server)
    with server.client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        comments = 0
        for line in answer.iter_lines():
            comments += line.startswith(":")
            if comments == 3:
                break
    assert comments == 3


def test_a_long_history_comes_whole(server: Server) -> None:
    job_id = submit(server)
    attempt = claim(job_id)
    assert attempt is not None
    count = stream.PIECE * 2 - 3  # with the three events of its state: a multiple of what is read at once
    with transaction() as session:
        for done in range(count):
            said = {"done": done, "total": count, "message": ""}
            assert lease.progress(session, job_id, attempt, "measuring", said)
    assert finish(job_id, attempt, JobStatus.FAILED, problem={"code": "crashed", "detail": "x"})
    with server.client.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
        seen = [int(event["id"]) for event in parse(answer.iter_lines())]
    assert seen == list(range(1, stream.PIECE * 2 + 1))


def test_five_hundred_waiters_share_one_read(burnish: Settings) -> None:
    async def scenario() -> None:
        reads: list[int] = []

        def read(subjects: list[str]) -> dict[str, int]:
            reads.append(len(subjects))
            return notifier._read_last_seqs(subjects)

        own = notifier.Notifier(0.05, read)
        before = threading.active_count()
        await asyncio.sleep(0.3)
        assert reads == []  # nobody waits: nothing is asked
        waiting = [asyncio.create_task(own.wait(f"job_{n % 50}", 0, LONG)) for n in range(500)]
        await asyncio.sleep(0.5)
        assert set(reads) == {50}
        assert threading.active_count() <= before + 2
        for n in range(50):
            await asyncio.to_thread(record, f"job_{n}")
        assert await asyncio.gather(*waiting) == [1] * 500
        asked = len(reads)
        await asyncio.sleep(0.3)
        assert len(reads) <= asked + 1
        assert await own.wait("job_0", 1, 0.2) == 1
        assert await own.wait("job_0", 0, LONG) == 1
        assert await own.wait("job_gone", 3, LONG) == 0
        await own.stop()

    asyncio.run(scenario())


def test_the_notifier_survives_a_database_that_is_away() -> None:
    async def scenario() -> None:
        failures = iter([OSError("no route"), OSError("no route")])

        def read(subjects: list[str]) -> dict[str, int]:
            for failure in failures:
                raise failure
            return dict.fromkeys(subjects, 7)

        own = notifier.Notifier(0.01, read)
        assert await own.wait("job_a", 0, LONG) == 7
        await own.stop()

    asyncio.run(scenario())


def test_stopping_tells_whoever_waits() -> None:
    async def scenario() -> None:
        own = notifier.Notifier(0.01, lambda subjects: {})
        waiting = asyncio.create_task(own.wait("job_a", 0, LONG))
        await asyncio.sleep(0.05)
        await own.stop()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await own.wait("job_a", 0, LONG)

    asyncio.run(scenario())
