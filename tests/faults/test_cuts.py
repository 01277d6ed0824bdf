"""Network cuts: between a worker and the database, a worker and the broker, the API and both."""

import os
from pathlib import Path

import httpx
import pytest

from app.artifacts.tables import Artifact
from app.config import Settings
from app.measurements.tables import Measurement
from tests.app.api.support import bearer, make_key
from tests.faults.jobs import Start, ended, submit
from tests.faults.parts import BURNISH, Program, ending, until
from tests.faults.proxy import Line, Proxy
from tests.services import free_port
from tests.workers.conftest import add_model, event_kinds, read_job, rows
from tests.workers.test_supervisor import alive, lines


def test_a_worker_cut_from_the_database_loses_its_jobs_and_writes_nothing(
    start: Start, database_line: tuple[Proxy, str], tmp_path: Path
) -> None:
    line, url = database_line
    model = add_model(tmp_path)
    pids, late = tmp_path / "pids", tmp_path / "late"
    cut_off = start(2, database_url=url)
    hanging = submit(
        model,
        [["once", str(tmp_path / "1"), [["mark", str(pids)], ["sleep", 600]]], ["artifacts", "of a second"]],
    )
    quick = submit(  # its result comes while nobody can be told
        model,
        [
            ["once", str(tmp_path / "2"), [["mark", str(late)], ["sleep", 2], ["artifacts", "of a first"]]],
            ["artifacts", "of a second"],
        ],
    )
    (child,) = until(lambda: lines(pids))
    until(lambda: lines(late))
    line.line = Line.SILENT
    start(2)
    jobs = [ended(hanging), ended(quick)]
    until(lambda: not alive(child))
    assert [(job.status, job.attempt) for job in jobs] == [("succeeded", 2)] * 2
    line.line = Line.UP
    third = submit(model, [["mark", str(tmp_path / "3")], ["artifacts", "of a third"]])
    assert ended(third).status == "succeeded"
    assert cut_off.alive
    for job in (*jobs, third):
        assert event_kinds(job.id).count("status:succeeded") == 1
    assert len(rows(Artifact)) == len(rows(Measurement)) == 3


def test_a_worker_serves_again_after_a_reset_on_a_slow_line(
    start: Start, database_line: tuple[Proxy, str], broker_line: tuple[Proxy, str], tmp_path: Path
) -> None:
    lines = (database_line[0], broker_line[0])
    model = add_model(tmp_path)
    worker = start(1, database_url=database_line[1], redis_url=broker_line[1])
    for line in lines:
        line.line = Line.RESET
    job = submit(model, [["artifacts", "after a reset"]])
    for line in lines:
        line.delay_seconds = 0.05
        line.line = Line.UP
    assert (ended(job).status, read_job(job.id).attempt) == ("succeeded", 1)
    assert worker.alive


@pytest.mark.slow
def test_a_worker_serves_again_when_a_gateway_forgot_its_connections(
    start: Start, database_line: tuple[Proxy, str], broker_line: tuple[Proxy, str], tmp_path: Path
) -> None:
    """Nothing ever says that they are gone: what is not answered in time does."""
    model = add_model(tmp_path)
    worker = start(1, database_url=database_line[1], redis_url=broker_line[1])
    assert ended(submit(model, [["artifacts", "before"]])).status == "succeeded"
    for line in (database_line[0], broker_line[0]):
        line.forget()
    assert ended(submit(model, [["artifacts", "after"]])).status == "succeeded"
    assert worker.alive


@pytest.mark.parametrize("cut", [Line.SILENT, pytest.param(Line.RESET, marks=pytest.mark.slow)])
def test_the_api_says_what_is_away_and_comes_back(
    cut: Line,
    on_postgres: Settings,
    database_line: tuple[Proxy, str],
    broker_line: tuple[Proxy, str],
    tmp_path: Path,
) -> None:
    database, url = database_line
    broker, redis_url = broker_line
    port = free_port()
    api = Program(
        "api",
        (*BURNISH, "serve", "--port", str(port)),
        {**os.environ, "BURNISH_DATABASE_URL": url, "BURNISH_REDIS_URL": redis_url},
        tmp_path / "api.log",
    )
    with (
        ending(api),
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers=bearer(make_key("admin")),
            timeout=60,
            trust_env=False,
        ) as client,
    ):
        api.start()
        until(lambda: answers(client))
        database.line = cut
        answer = client.get("/v1/jobs")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert answer.headers["Retry-After"]
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").json()["database"]["ok"] is False
        database.line = Line.UP
        until(lambda: client.get("/v1/jobs").status_code == 200)
        assert client.get("/readyz").status_code == 200

        broker.line = cut
        assert client.get("/readyz").json()["broker"]["ok"] is False
        made = client.post("/v1/models", files={"file": ("m.onnx", b"abc")})
        assert made.status_code == 201  # the sweep rings for it
        broker.line = Line.UP
        until(lambda: client.get("/readyz").status_code == 200)
        assert api.alive


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
