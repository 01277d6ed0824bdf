"""The processor time that each operation of the service takes, of PostgreSQL and of the process that asks.

Processor time, not waiting: it is the same on a busy machine, and adds up where many ask at once. Measured by the real functions, on a
real PostgreSQL whose tables hold as many jobs as an installation keeps.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from benchmarks.loopback import Grounds, burnish, grounds, rate, request, serving
from benchmarks.rows import RESULT, fill_jobs
from benchmarks.table import table

KEPT_JOBS = 100_000  # finished ones in the tables
PROJECTS = 20
WAITING = 1_000  # jobs in the queue that claims look through
REPEATS = 400
MEASUREMENTS = 30  # rows that a finished job leaves
QUEUE = "runtime.onnxruntime-cpu"
SAVED = Path(__file__).with_name("demands.json")  # what `load` is fed with


@dataclass(frozen=True)
class Demand:
    """Processor milliseconds of one operation."""

    postgres_ms: float
    client_ms: float


OPERATIONS = {
    "submit": "`POST /jobs`, less HTTP: checked, planned, queued",
    "read": "`GET /jobs/{id}`, less HTTP",
    "get": "`GET /jobs/{id}` over HTTP, the whole API process",
    "claim": "a worker takes the next job",
    "renew": "a worker renews a lease, every 5 s",
    "look": "a worker looks for a cancel, every second",
    "progress": "progress is told, at most twice a second",
    "step": "a step begins or ends",
    "beat": "a worker says that it lives, every 5 s",
    "finish": f"a job ends, with {MEASUREMENTS} measurements",
}


def run() -> tuple[str, bool]:
    """The table, and whether every operation was measured."""
    found = measure()
    SAVED.write_text(json.dumps({name: asdict(demand) for name, demand in found.items()}, indent=2) + "\n")
    rows = [
        [f"{name}: {OPERATIONS[name]}", f"{demand.postgres_ms:.2f}", f"{demand.client_ms:.2f}"]
        for name, demand in sorted(found.items(), key=lambda one: list(OPERATIONS).index(one[0]))
    ]
    return table(["operation", "PostgreSQL, ms", "who asks, ms"], rows), set(found) == set(OPERATIONS)


def measure() -> dict[str, Demand]:
    """Every operation by name, on a database of its own."""
    with grounds() as place, _installation(place) as server:
        found = dict(_measured(server))
        return {**found, "get": _over_http(place, server)}


def _over_http(place: Grounds, server: psutil.Process) -> Demand:
    """`GET /jobs/{id}` of a real API process: all that it and PostgreSQL do for one."""
    from app.auth.service import create_key
    from app.auth.tables import DEFAULT_PROJECT
    from app.db import transaction

    with transaction() as session:
        key = create_key(session, DEFAULT_PROJECT, "benchmark", ["read"])[1]
    environment = place.environment(os.environ["BURNISH_DATABASE_URL"])
    with serving("scale", "app.cli", place.folder, environment) as api:
        wire = request(f"/v1/jobs/job_{KEPT_JOBS // 2:020d}", key)
        asyncio.run(rate(api.port, wire, REPEATS, 1))
        process = psutil.Process(api.pid)
        before, own = _seconds(server), _seconds(process)
        asyncio.run(rate(api.port, wire, REPEATS, 1))
        return Demand(
            (_seconds(server) - before) / REPEATS * 1000, (_seconds(process) - own) / REPEATS * 1000
        )


@contextmanager
def _installation(place: Grounds) -> Iterator[psutil.Process]:
    """A migrated and filled database that this process's settings name; the server's first process."""
    url = place.database("scale")
    environment = place.environment(url)
    burnish("migrate", environment=environment)
    os.environ.update({name: value for name, value in environment.items() if name.startswith("BURNISH_")})
    engine = create_engine(url)
    with Session(engine) as session:
        fill_jobs(session, KEPT_JOBS)
        session.commit()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
        backend = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    server = psutil.Process(backend).parent()
    engine.dispose()
    assert server is not None
    yield server


def _measured(server: psutil.Process) -> Iterator[tuple[str, Demand]]:
    """Imports late: settings are read at the first look."""
    import app.tables  # noqa: F401 - every table, before the first row is read
    from app.auth import service as auth
    from app.db import transaction
    from app.fleet import service as fleet
    from app.ids import new_id
    from app.jobs import lease, service
    from app.jobs.schemas import read_request
    from app.jobs.status import JobStatus
    from app.measurements.tables import Measurement
    from tests.app.jobs.factories import make_model, offer, optimize

    with transaction() as session:
        projects = [auth.create_project(session, f"project {number}").id for number in range(PROJECTS)]
    worker = offer("onnxruntime-cpu")
    models = [make_model(project) for project in projects]
    submitted: list[tuple[str, str]] = []
    claimed: list[tuple[str, int, str]] = []

    def submit(number: int) -> None:
        project, model = projects[number % PROJECTS], models[number % PROJECTS]
        with transaction() as session:
            body = read_request(optimize(model, recipe={"schema": 1, "passes": [{"pass": "simplify"}]}))
            submitted.append((service.submit(session, project, body).id, project))

    def read(number: int) -> None:
        job, project = submitted[number]
        with transaction(readonly=True) as session:
            service.answers(session, project, [service.get_job(session, project, job)])[0].model_dump_json()

    def claim(number: int) -> None:
        with transaction() as session:
            job = lease.claim_next(session, submitted[0][0], worker, 3600.0)
            assert job is not None
            claimed.append((job.id, job.attempt, job.project_id))

    def renew(number: int) -> None:
        with transaction() as session:
            assert lease.renew(session, *claimed[number][:2], 3600.0)

    def look(number: int) -> None:
        with transaction(readonly=True) as session:
            assert lease.look(session, *claimed[number][:2])

    def progress(number: int) -> None:
        with transaction() as session:
            said = {"done": number, "total": 1000, "message": "comparing outputs"}
            assert lease.progress(session, *claimed[number][:2], "measuring", said)

    def step(number: int) -> None:
        with transaction() as session:
            said = {"index": 0, "name": "pass:simplify", "status": "done", "cached": False, "seconds": 1.0}
            assert lease.record_step(session, *claimed[number][:2], {**said, "key": "0" * 64, "facts": {}})

    def beat(number: int) -> None:
        with transaction() as session:
            assert fleet.heartbeat(session, worker, [claimed[number][0]])

    def finish(number: int) -> None:
        job, attempt, project = claimed[number]
        with transaction() as session:
            for index in range(MEASUREMENTS):
                session.add(_row(Measurement, new_id("mea"), project, job, index))
            assert lease.finish(session, job, attempt, JobStatus.SUCCEEDED, result=RESULT)

    for number in range(WAITING - REPEATS):
        submit(number)
    every: dict[str, Callable[[int], None]] = {
        "submit": submit, "read": read, "claim": claim, "renew": renew, "look": look, "progress": progress,
        "step": step, "beat": beat, "finish": finish,
    }  # fmt: skip
    for name, work in every.items():
        yield name, _demand(server, work)


def _row(kind: Any, id_: str, project: str, job: str, index: int) -> Any:
    return kind(
        id=id_,
        project_id=project,
        job_id=job,
        side="optimized",
        name=f"latency_{index}",
        unit="ms",
        value=1.5,
        low=1.4,
        high=1.6,
        samples={"count": 2000, "block_medians": [1.5] * 50},
        machine={"cpu": "x", "cores": 2},
    )


def _demand(server: psutil.Process, work: Callable[[int], None]) -> Demand:
    """What `REPEATS` calls take, each."""
    before, own = _seconds(server), time.process_time()
    for number in range(REPEATS):
        work(number)
    spent, own = _seconds(server) - before, time.process_time() - own
    return Demand(spent / REPEATS * 1000, own / REPEATS * 1000)


def _seconds(server: psutil.Process) -> float:
    """The processor time of a server and all its processes, those that ended included."""
    total = 0.0
    for process in (server, *server.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system
    times = server.cpu_times()
    return float(total + times.children_user + times.children_system)
