"""A thousand tiny jobs through two workers: none lost, none run twice, and what each costs beyond its child's own work."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from sqlalchemy import create_engine, text

from app.client import Client
from benchmarks.networks import packaged
from tests.services import free_port, running_postgres, running_redis

JOBS = 1000
WORKERS = 2
SENDERS = 8
PATIENCE_SECONDS = 1800.0
BURNISH = (sys.executable, "-P", "-m", "app.cli")
TINY_WORKER = (sys.executable, "-P", "-m", "benchmarks.tiny", "worker")
NETWORK = packaged("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx")

PER_JOB = """
    SELECT j.id, j.status, j.attempt, j.worker_id, extract(epoch FROM j.started_at) AS started,
      extract(epoch FROM j.finished_at) AS finished, m.value AS lived_ms,
      (SELECT count(*) FROM artifacts a WHERE a.job_id = j.id) AS artifacts,
      (SELECT count(*) FROM measurements n WHERE n.job_id = j.id) AS measurements
    FROM jobs j LEFT JOIN measurements m ON m.job_id = j.id
"""


def main() -> int:
    """Print what became of the jobs and where the time went; 1 where one was lost or run twice."""
    with installation() as (client, database_url):
        began = time.monotonic()
        submitted = submit_all(client)
        sent = time.monotonic() - began
        wait_for_all(client)
        took = time.monotonic() - began
        rows = read(database_url)
    whole = [row for row in rows if row["status"] == "succeeded"]
    twice = [row for row in rows if row["attempt"] != 1 or row["artifacts"] != 1 or row["measurements"] != 1]
    lost = set(submitted) - {row["id"] for row in whole}
    print("| | |")
    print("| --- | --- |")
    print(f"| jobs, workers | {len(submitted)}, {WORKERS} |")
    print(f"| lost, run twice | {len(lost)}, {len(twice)} |")
    print(f"| submitted in, all done in | {sent:.1f} s, {took:.1f} s |")
    print_costs(whole)
    return 1 if lost or twice else 0


@contextmanager
def installation() -> Iterator[tuple[Client, str]]:
    """PostgreSQL, Redis, one API process, two workers of tiny jobs."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bb-")))
        url = stack.enter_context(running_postgres(folder))
        environment = {
            **os.environ,
            "BURNISH_DATA_DIR": str(folder / "data"),
            "BURNISH_DATABASE_URL": url,
            "BURNISH_REDIS_URL": stack.enter_context(running_redis()),
            "BURNISH_LOG_LEVEL": "WARNING",
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),  # benchmarks are not installed
        }
        subprocess.run([*BURNISH, "migrate"], env=environment, check=True)
        made = subprocess.run(
            [*BURNISH, "keys", "create", "--name", "bench", "--scope", "write", "--json"],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
        )
        port = free_port()
        for command in ([*BURNISH, "serve", "--port", str(port)], *[list(TINY_WORKER)] * WORKERS):
            stack.callback(stop, subprocess.Popen(command, env=environment))
        client = Client(f"http://127.0.0.1:{port}", json.loads(made.stdout)["secret"], patience_seconds=60)
        stack.enter_context(client)
        wait_for("the API", lambda: is_ready(port))
        wait_for("the workers", lambda: len(client.workers()) == WORKERS)
        yield client, url


def wait_for(what: str, there: Callable[[], bool]) -> None:
    """Until something that starts is there.

    Raises:
        TimeoutError: it is not within two minutes.
    """
    deadline = time.monotonic() + 120
    while not there():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not start")
        time.sleep(0.2)


def is_ready(port: int) -> bool:
    """Whether the API answers for all of its parts."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).is_success
    except httpx.TransportError:
        return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """Tell a process to end, and wait for it."""
    process.terminate()
    process.wait(60)


def submit_all(client: Client) -> list[str]:
    """The ids of the jobs."""
    model = client.wait_model(client.upload_model(NETWORK)["id"])["id"]
    body = {
        "kind": "optimize",
        "subject": model,
        "recipe": {"schema": 1, "passes": [{"pass": "simplify"}]},
        "targets": ["onnxruntime-cpu"],
    }
    with ThreadPoolExecutor(SENDERS) as senders:
        return list(senders.map(lambda _: str(client.submit(body)["id"]), range(JOBS)))


def wait_for_all(client: Client) -> None:
    """Until no job waits or runs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(client.list("jobs", most=1, status=status) for status in ("queued", "running")):
        if time.monotonic() > deadline:
            raise TimeoutError("the jobs did not end")
        time.sleep(0.2)


def read(database_url: str) -> list[dict[str, Any]]:
    """What the database says of each job; a measurement more makes a row more."""
    engine = create_engine(database_url)
    with engine.connect() as connection:
        rows = [dict(row) for row in connection.execute(text(PER_JOB)).mappings()]
    engine.dispose()
    return rows


def print_costs(rows: list[dict[str, Any]]) -> None:
    """The child's own milliseconds; those between claim and end beyond them; those between two jobs of a worker."""
    rows.sort(key=lambda row: (row["worker_id"], row["started"]))
    lived = np.array([row["lived_ms"] for row in rows])
    around = np.array([float(row["finished"] - row["started"]) * 1000 for row in rows]) - lived
    between = np.array(
        [
            float(after["started"] - before["finished"]) * 1000
            for before, after in pairwise(rows)
            if before["worker_id"] == after["worker_id"]
        ]
    )
    print(f"| jobs by worker | {', '.join(map(str, Counter(row['worker_id'] for row in rows).values()))} |")
    for name, values in (
        ("the child's own life: Python, imports, sandbox, its work", lived),
        ("beyond it, from the claim to the end", around),
        ("between two jobs of a worker", between),
    ):
        middle, high = np.percentile(values, [50, 95])
        print(f"| {name}, ms, p50 and p95 | {middle:.0f}, {high:.0f} |")
