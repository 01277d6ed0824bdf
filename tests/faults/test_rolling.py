"""A rolling restart under load: every process is told to stop, one after the other, and nobody notices."""

import signal
import threading
import time

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.client import Client
from app.db import make_engine
from app.events.tables import Event
from benchmarks.networks import packaged
from tests.e2e.service import Service
from tests.e2e.test_production import is_ready
from tests.faults.parts import Program, until
from tests.faults.site import Site
from tests.faults.storm import Said, StormClient, check
from tests.faults.test_embedded_recovery import TINY, body

CLIENTS = 6
MOST_SECONDS = 60  # to stop in: leases are given back, none is waited for


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_rolling_restart_loses_nothing(site: Site) -> None:
    said, over = Said(), threading.Event()
    with Client(site.urls[0], site.key, patience_seconds=60) as client:
        until(lambda: len(client.workers()) == 3)
        model = Service(client, site.folder).model(packaged(*TINY))
        clients = [
            StormClient(site.urls, site.key, body(model, "simplify"), said, over) for _ in range(CLIENTS)
        ]
        for each in clients:
            each.start()
        try:
            until(lambda: len(said.ends) >= CLIENTS)
            for program in site.programs:
                restart(site, program, client)
        finally:
            over.set()
            for each in clients:
                each.join()
    ends = check(site.environment["BURNISH_DATABASE_URL"], said)
    assert list(ends) == ["succeeded"], ends
    assert not said.broken, "a request that an API process had taken was cut"
    assert given_back(site) > 0


def restart(site: Site, program: Program, client: Client) -> None:
    """Stop it in the midst of its work, as a deployment does, and start it again."""
    worker = program.name.startswith("worker")
    if worker:
        until(lambda: any(one["pid"] == program.pid and one["doing"] for one in workers(site)))
    time.sleep(0.5)
    assert program.stop(signal.SIGTERM, MOST_SECONDS) in (0, -signal.SIGTERM)
    program.start()
    if worker:
        until(lambda: any(one["pid"] == program.pid for one in workers(site)))
    else:
        until(lambda: is_ready(int(program.name.split()[1])))


def workers(site: Site) -> list[dict[str, object]]:
    from app.fleet.tables import Worker

    engine = make_engine(site.environment["BURNISH_DATABASE_URL"])
    with Session(engine) as session:
        found = [
            {"pid": row.pid, "doing": row.doing}
            for row in session.scalars(select(Worker).where(Worker.stopped_at.is_(None)))
        ]
    engine.dispose()
    return found


def given_back(site: Site) -> int:
    """How often a job went back into its queue; each must have gone on at once, and none be blamed."""
    engine = make_engine(site.environment["BURNISH_DATABASE_URL"])
    with Session(engine) as session:
        events = session.scalars(select(Event).where(Event.type == "status")).all()
        queued = [
            event.data for event in events if event.data["status"] == "queued" and event.data["attempt"] > 0
        ]
    engine.dispose()
    assert not [state for state in queued if state["problem"]]
    return len(queued)
