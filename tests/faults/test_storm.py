"""Everything is killed at random, again and again: no job is lost, doubled or stuck, and nothing is left behind."""

import json
import os
import threading
from collections import Counter

import pytest

from app.client import Client
from benchmarks.networks import packaged
from tests.e2e.service import Service
from tests.faults.parts import Init, attempts_of, processes_of, until
from tests.faults.site import Site
from tests.faults.storm import Killer, Said, StormClient, check
from tests.faults.test_embedded_recovery import TINY, body

KINDS = ("child", "child", "launch", "worker", "worker", "api", "redis", "postgres")
CLIENTS = 6


@pytest.mark.timeout(900)
def test_a_short_storm(site: Site) -> None:
    weather(site, KINDS, seed=int.from_bytes(os.urandom(4)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_long_storm(site: Site) -> None:
    weather(site, KINDS * 12 + ("child", "worker", "api", "postgres"), seed=int.from_bytes(os.urandom(4)))


def weather(site: Site, kinds: tuple[str, ...], seed: int) -> None:
    """Kill these while clients work, and hold what is left against what was promised."""
    print(f"seed {seed}")  # noqa: T201 - shown where the test fails
    said, over = Said(), threading.Event()
    with Client(site.urls[0], site.key, patience_seconds=60) as client:
        until(lambda: len(client.workers()) == 3)
        model = Service(client, site.folder).model(packaged(*TINY))
    clients = [StormClient(site.urls, site.key, body(model, "simplify"), said, over) for _ in range(CLIENTS)]
    with Init(*site.parts) as init:
        killer = Killer(init, site.folder, seed)
        for client_thread in clients:
            client_thread.start()
        try:
            killer.kill(kinds)
        finally:
            over.set()
            for client_thread in clients:
                client_thread.join()
        assert killer.killed == Counter(kinds)
        until(lambda: not attempts_of(site.folder))
        until(lambda: not list((site.folder / "data" / "scratch").iterdir()))
    ends = check(site.environment["BURNISH_DATABASE_URL"], said)
    print(f"{dict(ends)}, {said.retried} requests asked again")  # noqa: T201
    assert ends["succeeded"] > ends.total() / 2

    for program in site.programs:
        assert program.stop() in (0, -15)
    assert not processes_of(site.folder)
    incoming = site.folder / "data" / "blobs" / "incoming"
    for left in incoming.iterdir():  # what a killed writer left is taken for that after a day
        os.utime(left, (0, 0))
    site.burnish("gc", BURNISH_GC_GRACE_SECONDS="0")
    again = json.loads(site.burnish("gc", "--json", BURNISH_GC_GRACE_SECONDS="0"))
    assert again["files"] == 0
    assert not list(incoming.iterdir())
