"""A storm: clients that never give up, a killer that never lets them be, and what must hold when it is over."""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.artifacts.tables import Artifact
from app.db import make_engine
from app.event_stream import read_events
from app.events.tables import Event
from app.jobs.tables import Job, JobStep
from app.measurements.tables import Measurement
from tests.faults.parts import Init, Part, attempts_of, command_of, until

PATIENCE_SECONDS = 240
LATER = (429, 502, 503, 504)
HONEST = {"crashed"}  # what a storm may make of a job
MEASURED = "while it was measured"


@dataclass
class Said:
    """What clients were told, and what they must never be told."""

    jobs: dict[str, str] = field(default_factory=dict)  # name -> id, as answered 202
    ends: dict[str, str] = field(default_factory=dict)  # id -> the end that its client saw
    wrong: list[str] = field(default_factory=list)
    broken: list[str] = field(
        default_factory=list
    )  # requests that had reached a process which then went away
    retried: int = 0


class StormClient(threading.Thread):
    """Submits a job, waits for its end, and submits the next, over any of the addresses, until it is told to stop."""

    def __init__(
        self, urls: Sequence[str], key: str, body: dict[str, Any], said: Said, over: threading.Event
    ):
        super().__init__(name="client")
        self._urls = urls
        self._turn = 0
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
            limits=httpx.Limits(max_keepalive_connections=0),  # one may be closed just as it is used again
            trust_env=False,
        )
        self._body = body
        self._said = said
        self._over = over

    def run(self) -> None:
        with self._http:
            streams = False
            while not self._over.is_set():
                try:
                    self._one_job(streams)
                except Exception as error:
                    self._said.wrong.append(f"{type(error).__name__}: {error}")
                    return
                streams = not streams

    def _one_job(self, streams: bool) -> None:
        name = uuid.uuid4().hex
        answer = self._ask(
            "POST", "/v1/jobs", json={**self._body, "name": name}, headers={"Idempotency-Key": name}
        )
        if answer.status_code != 202:
            raise AssertionError(answer.text)
        id_ = answer.json()["id"]
        self._said.jobs[name] = id_
        self._said.ends[id_] = self._listen(id_) if streams else self._poll(id_)

    def _poll(self, id_: str) -> str:
        while True:
            job = self._ask("GET", f"/v1/jobs/{id_}?wait=10").json()
            if job["finished"]:
                return str(job["status"])

    def _listen(self, id_: str) -> str:
        """By events, each heard once and in order, over however many connections."""
        last = 0
        for event_id, name, data in self._events(id_):
            if event_id <= last:
                raise AssertionError(f"event {event_id} of {id_} came after {last}")
            last = event_id
            if name == "status" and data["finished"]:
                return str(data["status"])
        raise AssertionError("unreachable")

    def _events(self, id_: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
        last = 0
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            headers = {"Last-Event-ID": str(last)} if last else {}
            url = f"{self._url()}/v1/jobs/{id_}/events"
            with suppress(httpx.TransportError), self._http.stream("GET", url, headers=headers) as answer:
                if answer.status_code not in (200, *LATER):
                    raise AssertionError(f"{answer.status_code} for the events of {id_}")
                for event in read_events(answer.iter_lines()) if answer.status_code == 200 else ():
                    if event.id is not None:
                        last = int(event.id)
                        yield last, event.type, event.data
            self._next()
        raise AssertionError(f"{id_} did not end")

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                answer = self._http.request(method, self._url() + path, **more)
            except httpx.TransportError as error:
                if not isinstance(error, httpx.ConnectError):
                    self._said.broken.append(f"{method} {path}: {error!r}")
                self._next()
                continue
            if answer.status_code not in LATER:
                if answer.status_code >= 400:
                    raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text}")
                return answer
            self._next()
        raise AssertionError(f"no answer to {method} {path}")

    def _url(self) -> str:
        return self._urls[self._turn % len(self._urls)]

    def _next(self) -> None:
        self._said.retried += 1
        self._turn += 1
        time.sleep(0.2)


class Killer:
    """Kills what it is told at random moments; the same seed kills the same kinds in the same order."""

    def __init__(self, init: Init, folder: Path, seed: int):
        self._init = init
        self._folder = folder
        self._random = random.Random(seed)
        self.killed: Counter[str] = Counter()

    def kill(self, kinds: Sequence[str]) -> None:
        """One of each, in a random order; `child` and `launch` wait for one to be there."""
        order = list(kinds)
        self._random.shuffle(order)
        for kind in order:
            time.sleep(self._random.uniform(0.5, 2.5))
            if kind in ("child", "launch"):
                self._kill_process(kind)
            else:
                self._kill_part(
                    self._random.choice([part for part in self._init.parts if part.name.startswith(kind)])
                )
            self.killed[kind] += 1

    def _kill_part(self, part: Part) -> None:
        with self._init.lock:
            part.kill()

    def _kill_process(self, kind: str) -> None:
        victims = until(
            lambda: [
                one
                for one in attempts_of(self._folder)
                if kind == "child" or any(kind in word for word in command_of(one))
            ]
        )
        with suppress(psutil.Error):
            self._random.choice(victims).kill()


def check(database_url: str, said: Said) -> Counter[str]:
    """Every job that was answered is there, once, ended as its client saw, with one result. How many ended how, and why."""
    assert not said.wrong, said.wrong
    engine = make_engine(database_url)
    with Session(engine) as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
        names = Counter(job.name for job in jobs.values())
        assert max(names.values()) == 1
        assert {job.name: job.id for job in jobs.values()} == said.jobs
        assert {job.id: job.status for job in jobs.values()} == said.ends
        for job in jobs.values():
            _check_job(session, job)
    engine.dispose()
    return Counter(job.problem["detail"] if job.problem else job.status for job in jobs.values())


def _check_job(session: Session, job: Job) -> None:
    events = session.scalars(select(Event).where(Event.subject_id == job.id).order_by(Event.seq)).all()
    states = [event.data for event in events if event.type == "status"]
    assert [state["attempt"] for state in states if state["status"] == "running"] == list(
        range(1, job.attempt + 1)
    )
    assert [state["status"] for state in states if state["finished"]] == [job.status]
    assert events[-1].data.get("finished"), "nothing is told after the end"
    artifacts = session.scalars(select(Artifact).where(Artifact.job_id == job.id)).all()
    numbers = session.scalars(select(Measurement).where(Measurement.job_id == job.id)).all()
    steps = session.scalars(select(JobStep).where(JobStep.job_id == job.id)).all()
    assert "running" not in {step.status for step in steps}
    assert job.worker_id is not None or job.status != "succeeded"
    assert job.lease_expires_at is None
    if job.status == "succeeded":
        assert job.problem is None
        assert job.result is not None
        assert sorted(one.id for one in artifacts) == sorted(job.result["artifacts"].values())
        assert artifacts
        assert numbers
        assert max(Counter((one.side, one.name) for one in numbers).values()) == 1
    else:
        assert job.status == "failed"
        assert job.problem is not None
        assert job.problem["code"] in HONEST, job.problem
        # an engine that is killed while it is measured is taken for one that crashes: no other attempt is made
        assert job.stalled_attempts >= 3 or MEASURED in job.problem["detail"]
        assert not artifacts
        assert not numbers
