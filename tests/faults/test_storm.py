"""Everything is killed at random, again and again: no job is lost, doubled or stuck, and nothing is left behind."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.client import Client
from benchmarks.networks import packaged
from tests.e2e.service import Service
from tests.e2e.test_production import is_ready
from tests.faults.parts import BURNISH, Init, Part, Postgres, Program, Redis, ending, processes_of, until
from tests.faults.storm import Killer, Said, StormClient, check
from tests.faults.test_embedded_recovery import TINY, body
from tests.services import free_port

KINDS = ("child", "child", "launch", "worker", "worker", "api", "redis", "postgres")
CLIENTS = 6


@dataclass
class Site:
    """An installation on servers of its own."""

    folder: Path
    environment: dict[str, str]
    urls: list[str]
    key: str
    parts: list[Part]  # workers and API first
    programs: list[Program]

    def burnish(self, *arguments: str, **settings: str) -> str:
        """What a `burnish` command prints."""
        done = subprocess.run(
            [*BURNISH, *arguments],
            env={**self.environment, **settings},
            check=True,
            timeout=120,
            capture_output=True,
        )
        return done.stdout.decode()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """PostgreSQL that syncs, Valkey, two API processes, a worker as it is, and two whose jobs are cheap."""
    with ExitStack() as stack:
        postgres = Postgres(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bpg"))))
        broker = Redis(tmp_path)
        environment = {
            **os.environ,
            "BURNISH_DATA_DIR": str(tmp_path / "data"),
            "BURNISH_DATABASE_URL": postgres.url,
            "BURNISH_REDIS_URL": broker.url,
            "BURNISH_DATABASE_SECONDS": "4",
            "BURNISH_LEASE_SECONDS": "8",
            "BURNISH_HEARTBEAT_SECONDS": "1",
            "BURNISH_SWEEP_SECONDS": "1",
            "BURNISH_RESEND_SECONDS": "2",
        }
        ports = [free_port(), free_port()]
        programs = [
            *(
                Program(
                    f"api {port}",
                    (*BURNISH, "serve", "--port", str(port)),
                    environment,
                    tmp_path / f"api-{port}.log",
                )
                for port in ports
            ),
            Program(
                "worker real",
                (*BURNISH, "worker", "--concurrency", "1"),
                environment,
                tmp_path / "worker-real.log",
            ),
            *(
                Program(
                    f"worker {n}",
                    (sys.executable, "-m", "tests.faults.storm_worker"),
                    environment,
                    tmp_path / f"worker-{n}.log",
                )
                for n in (1, 2)
            ),
        ]
        stack.enter_context(ending(*programs, broker, postgres))
        postgres.start()
        broker.start()
        made = Site(
            tmp_path,
            environment,
            [f"http://127.0.0.1:{port}" for port in ports],
            "",
            [*programs, broker, postgres],
            programs,
        )
        made.burnish("migrate")
        made.key = json.loads(made.burnish("keys", "create", "--name", "test", "--scope", "write", "--json"))[
            "secret"
        ]
        for program in programs:
            program.start()
        until(lambda: all(is_ready(port) for port in ports))
        yield made


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
        killer = Killer(init, str(site.folder), seed)
        for client_thread in clients:
            client_thread.start()
        try:
            killer.kill(kinds)
        finally:
            over.set()
            for client_thread in clients:
                client_thread.join()
        assert killer.killed == Counter(kinds)
        until(lambda: not killer.children())
        until(lambda: not list((site.folder / "data" / "scratch").iterdir()))
    ends = check(site.environment["BURNISH_DATABASE_URL"], said)
    print(f"{dict(ends)}, {said.retried} requests asked again")  # noqa: T201
    assert ends["succeeded"] > ends.total() / 2

    for program in site.programs:
        assert program.stop() in (0, -15)
    assert not processes_of(site.folder)
    site.burnish("gc", BURNISH_GC_GRACE_SECONDS="0")
    again = json.loads(site.burnish("gc", "--json", BURNISH_GC_GRACE_SECONDS="0"))
    assert again["files"] == 0
    assert not list((site.folder / "data" / "blobs" / "incoming").iterdir())
