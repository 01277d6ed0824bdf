"""A thousand workers and a million jobs a day, as discrete events on the demands that were measured (`demands.py`).

Simulated: PostgreSQL as so many cores, API replicas as a core each, workers as places for one job each; every operation of every job
takes its measured processor time, exponentially distributed. Not simulated: locks, disks, the network, Redis, the object store.

What would give first follows from the demands alone: a station with c cores and a demand of D seconds a job takes no more than c / D
jobs a second (Denning and Buzen, The Operational Analysis of Queueing Network Models, 1978).
"""

import json
import random
from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import simpy

from benchmarks.scale.demands import SAVED, Demand
from benchmarks.table import table

DAY_SECONDS = 86_400
JOBS_A_DAY = 1_000_000
WORKERS = 1_000
PEAK = 2.0  # the busiest hour against the mean of the day
SECONDS = 60.0  # simulated, after as many to warm up

Events = Generator[Any, Any, None]


@dataclass(frozen=True)
class Job:
    """What a job is made of: lognormal seconds with this mean, and what is told while it runs."""

    mean_seconds: float = 60.0
    sigma: float = 0.9
    steps: int = 8
    progress_seconds: float = 2.0
    readers: float = 1.0  # clients that wait for it


@dataclass(frozen=True)
class Fleet:
    """What is there."""

    name: str
    workers: int = WORKERS
    database_cores: int = 8
    replicas: int = 4
    jobs_a_second: float = JOBS_A_DAY / DAY_SECONDS
    job: Job = field(default_factory=Job)


@dataclass
class Seen:
    """What a simulation showed; times in seconds."""

    fleet: Fleet
    busy: dict[str, float]
    waited_for_worker: np.ndarray
    read: np.ndarray
    waiting: int  # jobs in the end


def run() -> tuple[str, bool]:
    """Three tables, and whether the mean of the day is carried."""
    demands = {name: Demand(**one) for name, one in json.loads(SAVED.read_text()).items()}
    mean = JOBS_A_DAY / DAY_SECONDS
    told = Job(readers=0.0)
    fleets = [
        Fleet("the day's mean"),
        Fleet("the busiest hour, 1,600 workers", 1600, jobs_a_second=PEAK * mean),
        Fleet("the same, 10 replicas", 1600, replicas=10, jobs_a_second=PEAK * mean),
        Fleet(
            "the same, 2 replicas and webhooks in place of polls",
            1600,
            replicas=2,
            jobs_a_second=PEAK * mean,
            job=told,
        ),
        Fleet("the same, PostgreSQL with 4 cores", 1600, 4, 2, PEAK * mean, told),
    ]
    seen = [simulate(fleet, demands) for fleet in fleets]
    texts = [
        table(
            ["station", "demand a job", "gives out at"],
            [
                [name, f"{1000 * seconds:.3g} ms", f"{limit:.3g} jobs/s"]
                for name, seconds, limit in limits(demands)
            ],
        ),
        table(
            [
                "what is simulated",
                "jobs/s",
                "workers",
                "PostgreSQL",
                "API",
                "waits for a worker, p50 / p99",
                "a read, p99",
            ],
            [_told(one) for one in seen],
        ),
    ]
    return "\n\n".join(texts), seen[0].busy["workers"] < 0.95


def per_job(demands: dict[str, Demand], job: Job) -> dict[str, float]:
    """How often each operation happens for one job."""
    told = job.mean_seconds / job.progress_seconds
    return {
        "submit": 1,
        "claim": 1,
        "step": 2 * job.steps,
        "progress": told,
        "look": job.mean_seconds,
        "renew": job.mean_seconds / 5,
        "beat": job.mean_seconds / 5,
        "finish": 1,
        "get": job.readers * (told + 2 * job.steps),
    }


def limits(demands: dict[str, Demand], fleet: Fleet | None = None) -> list[tuple[str, float, float]]:
    """Each station: its seconds a job, and the jobs a second at which it gives out; the first one first."""
    fleet = fleet or Fleet("")
    times = per_job(demands, fleet.job)
    database = sum(number * demands[name].postgres_ms for name, number in times.items()) / 1000
    api = sum(times[name] * demands[name].client_ms for name in ("submit", "get")) / 1000
    found = [
        (f"{fleet.workers:,} workers", fleet.job.mean_seconds, fleet.workers / fleet.job.mean_seconds),
        (f"PostgreSQL, {fleet.database_cores} cores", database, fleet.database_cores / database),
        (f"{fleet.replicas} API replicas", api, fleet.replicas / api),
    ]
    return sorted(found, key=lambda one: one[2])


def simulate(fleet: Fleet, demands: dict[str, Demand], seed: int = 0, seconds: float = SECONDS) -> Seen:
    """Run a fleet for `seconds` to warm up, and as long again to be looked at; it begins with as many jobs as the mean would run."""
    return _Simulation(fleet, demands, seed).run(seconds)


class _Simulation:
    def __init__(self, fleet: Fleet, demands: dict[str, Demand], seed: int):
        self._fleet, self._demands, self._chance = fleet, demands, random.Random(seed)
        self._env = simpy.Environment()
        self._workers = simpy.Resource(self._env, fleet.workers)
        self._stations = {
            "PostgreSQL": simpy.Resource(self._env, fleet.database_cores),
            "API": simpy.Resource(self._env, fleet.replicas),
        }
        self._busy = {"PostgreSQL": 0.0, "API": 0.0, "workers": 0.0}
        self._waited: list[float] = []
        self._reads: list[float] = []
        self._since = 0.0

    def run(self, seconds: float) -> Seen:
        """See `simulate`."""
        self._since = seconds
        running = min(self._fleet.jobs_a_second * self._fleet.job.mean_seconds, self._fleet.workers)
        for _ in range(int(running)):
            self._env.process(self._job(begun=True))
        self._env.process(self._watch())
        self._env.process(self._arrive())
        for number in range(self._fleet.workers):
            self._env.process(self._beat(5.0 * number / self._fleet.workers))
        self._env.run(2 * seconds)
        capacity = {
            "PostgreSQL": self._fleet.database_cores,
            "API": self._fleet.replicas,
            "workers": self._fleet.workers,
        }
        return Seen(
            self._fleet,
            {name: spent / (seconds * capacity[name]) for name, spent in self._busy.items()},
            np.array(self._waited),
            np.array(self._reads),
            len(self._workers.queue),
        )

    def _arrive(self) -> Events:
        for _ in count():
            yield self._env.timeout(self._chance.expovariate(self._fleet.jobs_a_second))
            self._env.process(self._job(begun=False))

    def _watch(self) -> Events:
        """How many workers are busy, every second."""
        yield self._env.timeout(self._since)
        while True:
            self._busy["workers"] += self._workers.count
            yield self._env.timeout(1.0)

    def _job(self, *, begun: bool) -> Events:
        """One job from its submission on, or what is left of one that runs already: of those, long ones are seen more often."""
        job, start = self._fleet.job, self._env.now
        middle = np.log(job.mean_seconds) + (0.5 if begun else -0.5) * job.sigma**2
        left = self._chance.lognormvariate(middle, job.sigma) * (self._chance.random() if begun else 1.0)
        if not begun:
            yield from self._at("API", self._demands["submit"].client_ms)
            yield from self._at("PostgreSQL", self._demands["submit"].postgres_ms)
        with self._workers.request() as place:
            yield place
            if self._env.now >= self._since and not begun:
                self._waited.append(self._env.now - start)
            yield from self._at("PostgreSQL", self._demands["claim"].postgres_ms)
            yield from self._work(left)
            yield from self._at("PostgreSQL", self._demands["finish"].postgres_ms)

    def _work(self, left: float) -> Events:
        """A second at a time: a look each, and what falls due."""
        job, second = self._fleet.job, 0
        steps = 2 * job.steps / max(left, 1.0)
        while left > 0:
            yield self._env.timeout(min(left, 1.0))
            left, second = left - 1.0, second + 1
            self._env.process(self._at("PostgreSQL", self._demands["look"].postgres_ms))
            for name, chance in (
                ("progress", 1 / job.progress_seconds),
                ("renew", 0.2),
                *(("step", 1.0) for _ in range(int(steps + self._chance.random()))),
            ):
                if self._chance.random() < chance:
                    self._env.process(self._tell(name))

    def _tell(self, name: str) -> Events:
        """A write, and the read of whoever waits for it."""
        yield from self._at("PostgreSQL", self._demands[name].postgres_ms)
        if name == "renew" or self._chance.random() > self._fleet.job.readers:
            return
        began = self._env.now
        yield from self._at("API", self._demands["get"].client_ms)
        yield from self._at("PostgreSQL", self._demands["get"].postgres_ms)
        if began >= self._since:
            self._reads.append(self._env.now - began)

    def _beat(self, first: float) -> Events:
        yield self._env.timeout(first)
        while True:
            self._env.process(self._at("PostgreSQL", self._demands["beat"].postgres_ms))
            yield self._env.timeout(5.0)

    def _at(self, station: str, mean_ms: float) -> Events:
        with self._stations[station].request() as place:
            yield place
            spent = self._chance.expovariate(1000 / mean_ms) if mean_ms else 0.0
            if self._env.now >= self._since:
                self._busy[station] += spent
            yield self._env.timeout(spent)


def _told(seen: Seen) -> list[str]:
    waited, read = seen.waited_for_worker, seen.read
    times = f"{np.median(waited):.2g} s / {np.percentile(waited, 99):.2g} s" if len(waited) else "none began"
    if seen.waiting > seen.fleet.workers * 0.05:
        times += f", {seen.waiting:,} wait in the end"
    return [
        seen.fleet.name,
        f"{seen.fleet.jobs_a_second:.3g}",
        f"{seen.busy['workers']:.0%}",
        f"{seen.busy['PostgreSQL']:.0%}",
        f"{seen.busy['API']:.0%}",
        times,
        f"{1000 * np.percentile(read, 99):.2g} ms" if len(read) else "–",
    ]
