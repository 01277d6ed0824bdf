"""A whole installation in production mode, for tests that break it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.test_production import is_ready
from tests.faults.parts import BURNISH, Part, Postgres, Program, Redis, ending, until
from tests.services import free_port


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


@contextmanager
def installed(folder: Path) -> Iterator[Site]:
    """PostgreSQL that syncs, Valkey, two API processes, a worker as it is, and two whose jobs are cheap."""
    with ExitStack() as stack:
        postgres = Postgres(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bpg"))))
        broker = Redis(folder)
        environment = {
            **os.environ,
            "BURNISH_DATA_DIR": str(folder / "data"),
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
                    folder / f"api-{port}.log",
                )
                for port in ports
            ),
            Program(
                "worker real",
                (*BURNISH, "worker", "--concurrency", "1"),
                environment,
                folder / "worker-real.log",
            ),
            *(
                Program(
                    f"worker {n}",
                    (sys.executable, "-m", "tests.faults.storm_worker"),
                    environment,
                    folder / f"worker-{n}.log",
                )
                for n in (1, 2)
            ),
        ]
        stack.enter_context(ending(*programs, broker, postgres))
        postgres.start()
        broker.start()
        made = Site(
            folder,
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
