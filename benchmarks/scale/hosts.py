"""A hundred jobs over four hosts: network namespaces of this machine that share PostgreSQL, Redis and a bucket over a bridge.

As root, where the kernel makes bridges.
"""

import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from benchmarks.many_jobs import NETWORK, SENDERS, TINY_WORKER, stop, wait_for, wait_for_all
from benchmarks.table import table
from benchmarks.written import ROOT
from tests.e2e.over_network import Installation, installed
from tests.e2e.wires import Host, missing, wired

JOBS, HOSTS = 100, 4
QUEUE = "runtime.onnxruntime-cpu"
SETTINGS = {
    "RUNTIMES": "onnxruntime-cpu",
    "MEASURE_SECONDS": "0.2",
    "MEASURE_LAUNCHES": "2",
    "LOG_LEVEL": "WARNING",
}
SLEEP_SECONDS = 1.0

JOBS_DONE = "SELECT id, status, attempt, worker_id FROM jobs"
STEPS = "SELECT s.key, s.cached, j.worker_id FROM job_steps s JOIN jobs j ON j.id = s.job_id WHERE s.key IS NOT NULL"


@dataclass(frozen=True)
class Outcome:
    """What became of the jobs, and how long all of them took, in seconds."""

    jobs: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    seconds: float

    @property
    def whole(self) -> int:
        """Jobs that ended well at their first attempt."""
        return sum(job["status"] == "succeeded" and job["attempt"] == 1 for job in self.jobs)

    @property
    def spread(self) -> list[int]:
        """Jobs of each host, the most first."""
        return sorted(Counter(job["worker_id"] for job in self.jobs).values(), reverse=True)

    @property
    def computed(self) -> Counter[str]:
        """How often each step was computed."""
        return Counter(step["key"] for step in self.steps if not step["cached"])

    @property
    def found(self) -> list[dict[str, Any]]:
        """Steps that were in the cache."""
        return [step for step in self.steps if step["cached"]]

    @property
    def found_elsewhere(self) -> int:
        """Those of them that a host found which had not computed them."""
        makers = {(step["key"], step["worker_id"]) for step in self.steps if not step["cached"]}
        return sum((step["key"], step["worker_id"]) not in makers for step in self.found)


def run() -> tuple[str, bool]:
    """The table, and whether all jobs ended well, each host had its share, and four hosts did the sleeping jobs in little over a quarter."""
    if (why := missing()) is not None:
        return f"Not run: {why}.", False
    real = {count: outcome(count, optimizations(), ()) for count in (HOSTS, 1)}
    asleep = {
        count: outcome(count, optimizations()[:1] * JOBS, (*TINY_WORKER, f"{SLEEP_SECONDS}"))
        for count in (HOSTS, 1)
    }
    many, one = real[HOSTS], real[1]
    columns = [many, one]
    rows = [
        ("jobs that ended well at the first attempt", *(f"{each.whole} of {JOBS}" for each in columns)),
        ("jobs of each host", *(", ".join(map(str, each.spread)) for each in columns)),
        ("steps", *(f"{len(each.steps)}" for each in columns)),
        ("of them found in the cache", *(f"{len(each.found)}" for each in columns)),
        ("… where another host had left them", *(f"{each.found_elsewhere}" for each in columns)),
        ("steps that were computed twice", *(f"{_twice(each)}" for each in columns)),
        ("all jobs, s", *(f"{each.seconds:.0f}" for each in columns)),
        (f"jobs that sleep for {SLEEP_SECONDS:g} s, s", *(f"{asleep[n].seconds:.0f}" for n in (HOSTS, 1))),
    ]
    gained, slept = one.seconds / many.seconds, asleep[1].seconds / asleep[HOSTS].seconds
    met = all(each.whole == JOBS for each in (*real.values(), *asleep.values()))
    met = met and len(many.spread) == HOSTS and min(many.spread) >= JOBS / HOSTS / 2 and slept >= 0.85 * HOSTS
    told = (
        f"\n\nFour hosts were {gained:.2f} times as fast as one: all of them share this machine's {os.cpu_count()} processors, and so do the "
        f"services. Jobs that only sleep, with everything around them real, say what the service itself allows: {slept:.2f} times. "
        f"Goals: no job lost, each host with its share, jobs that sleep at least {0.85 * HOSTS:.1f} times as fast: {'reached' if met else '**missed**'}."
    )
    return table(("", "four hosts", "one host"), rows) + told, met


def _twice(each: Outcome) -> int:
    return sum(count - 1 for count in each.computed.values())


def optimizations() -> list[dict[str, Any]]:
    """A hundred jobs without their subject: 25 recipes, for one thread and two, each of them twice."""
    recipes = [
        [{"pass": "simplify", "params": {"fuse": fuse, "fold_limit_bytes": limit}}, *more]
        for fuse in (True, False)
        for limit in (1 << 20, 1 << 16)
        for more in (
            [],
            [{"pass": "to-fp16"}],
            [{"pass": "to-fp16", "params": {"blocked_operators": ["Conv"]}}],
            [{"pass": "quantize-dynamic"}],
            [{"pass": "quantize-dynamic", "params": {"weight_type": "uint8"}}],
            [{"pass": "quantize-weights", "params": {"minimum_weights": 64}}],
        )
    ]
    recipes.append([{"pass": "to-fp16"}])
    return [
        {
            "kind": "optimize",
            "recipe": {"schema": 1, "passes": passes},
            "targets": [{"runtime": "onnxruntime-cpu", "params": {"threads": threads}}],
        }
        for _ in range(2)
        for threads in (1, 2)
        for passes in recipes
    ]


def outcome(count: int, bodies: Sequence[dict[str, Any]], command: Sequence[str]) -> Outcome:
    """Do the jobs on so many hosts, by workers that `command` starts; none given: Burnish's own."""
    with (
        tempfile.TemporaryDirectory(prefix="bh-") as folder,
        wired(count) as (address, hosts),
        installed(address, Path(folder), **SETTINGS) as installation,
        ExitStack() as stack,
    ):
        for host in hosts:
            if command:
                stack.callback(stop, _other(installation, host, command))
            else:
                installation.worker(host, "--queues", QUEUE)
        client = installation.client
        wait_for("the workers", lambda: len(client.workers()) == count + 1)
        model = client.wait_model(client.upload_model(NETWORK)["id"])["id"]
        began = time.monotonic()
        with ThreadPoolExecutor(SENDERS) as senders:
            list(senders.map(lambda body: client.submit({**body, "subject": model}), bodies))
        wait_for_all(client)
        seconds = time.monotonic() - began
        url = installation.database_url
        return Outcome(_read(url, JOBS_DONE), _read(url, STEPS), seconds)


def _other(installation: Installation, host: Host, command: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = {**installation.at(host.name), "PYTHONPATH": str(ROOT)}  # benchmarks are not installed
    return subprocess.Popen([*host.inside, *command], env=environment)


def _read(database_url: str, query: str) -> list[dict[str, Any]]:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        rows = [dict(row) for row in connection.execute(text(query)).mappings()]
    engine.dispose()
    return rows
