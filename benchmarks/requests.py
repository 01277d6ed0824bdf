"""`GET /v1/jobs/{id}` beside a bare FastAPI route, and jobs and their lists in a table of 100 and of 100,000."""

import asyncio
import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from app.auth.service import create_key
from app.auth.tables import DEFAULT_PROJECT
from benchmarks.loopback import Connection, Grounds, Served, burnish, grounds, rate, request, serving
from benchmarks.rows import RARE, fill_jobs

FEW, MANY = 100, 100_000
CONNECTIONS = 8
REQUESTS = 80  # in a block
ROUNDS = 12  # of blocks in turns, each side first in every other
WARM_UP = 80
LEAST = 0.8  # of the bare route's requests per second


@dataclass(frozen=True)
class Side:
    """What one side of a comparison is asked."""

    server: Served
    wire: bytes


def main() -> int:
    """Print the table; 1 where the route is slower than it may be."""
    with grounds() as place, ExitStack() as stack:
        few = Installation(place, "few", FEW, stack)
        many = Installation(place, "many", MANY, stack)
        bare = stack.enter_context(
            serving("bare", "benchmarks.bare", place.folder, place.environment(many.database_url))
        )
        print("| request | beside | requests/s | ratio [least, most] |")
        print("| --- | --- | --- | --- |", flush=True)
        wire = many.request(f"/v1/jobs/{many.job_id}")
        ratio = compare(
            "GET /v1/jobs/{id}", "a bare route", Side(many.api, wire), Side(bare, wire), same=True
        )
        for name, path in paths(few).items():
            other = paths(many)[name]
            compare(
                f"{name}, {MANY:,} jobs",
                f"{FEW} jobs",
                Side(many.api, many.request(other)),
                Side(few.api, few.request(path)),
            )
    if ratio < LEAST:
        print(f"the route makes {ratio:.2f} of the bare one's requests per second", file=sys.stderr)
        return 1
    return 0


class Installation:
    """A database with so many jobs, and an API process on it."""

    def __init__(self, place: Grounds, name: str, jobs: int, stack: ExitStack):
        self.database_url = place.database(name)
        environment = place.environment(self.database_url)
        burnish("migrate", environment=environment)
        engine = create_engine(self.database_url)
        with Session(engine) as session:
            self.key = create_key(session, DEFAULT_PROJECT, "benchmark", ["read"])[1]
            self.job_id = fill_jobs(session, jobs)
            session.commit()
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
        engine.dispose()
        self.api = stack.enter_context(serving(name, "app.cli", place.folder, environment))

    def request(self, path: str) -> bytes:
        """A request with this installation's key."""
        return request(path, self.key)

    def page(self, path: str) -> Mapping[str, Any]:
        """The answer to a request."""
        status, body = asyncio.run(Connection.fetch(self.api.port, self.request(path)))
        if status != 200:
            raise RuntimeError(f"{path} answered {status}: {body!r}")
        page: Mapping[str, Any] = json.loads(body)
        return page


def paths(installation: Installation) -> dict[str, str]:
    """What is asked in both tables: each answer has the same number of rows in both."""
    deep = None
    for _ in range(8):  # pages of the newest jobs lie behind, or 800 of them
        cursor = f"&cursor={deep}" if deep else ""
        deep = installation.page(f"/v1/jobs?limit=10{cursor}")["next_cursor"]
    return {
        "GET /v1/jobs/{id}": f"/v1/jobs/{installation.job_id}",
        "first page": "/v1/jobs?limit=10",
        "deep page": f"/v1/jobs?limit=10&cursor={deep}",
        "a status that few, old ones have": "/v1/jobs?limit=10&status=failed",
        "a label that few, old ones have": f"/v1/jobs?limit=10&label=team%3D{RARE}",
        "a label that most have": "/v1/jobs?limit=10&label=team%3Dvision",
    }


def compare(name: str, beside: str, one: Side, other: Side, *, same: bool = False) -> float:
    """Measure two sides in turns and print their row; the median ratio of one to the other."""
    if same:
        answers = [asyncio.run(Connection.fetch(side.server.port, side.wire)) for side in (one, other)]
        if answers[0] != answers[1]:
            raise RuntimeError(f"the two answer differently:\n{answers[0]!r}\n{answers[1]!r}")
    for side in (one, other):
        asyncio.run(rate(side.server.port, side.wire, WARM_UP, CONNECTIONS))
    rates: list[tuple[float, float]] = []
    for number in range(ROUNDS):
        order = (one, other) if number % 2 == 0 else (other, one)
        found = {
            id(side): asyncio.run(rate(side.server.port, side.wire, REQUESTS, CONNECTIONS)) for side in order
        }
        rates.append((found[id(one)], found[id(other)]))
    ratios = [left / right for left, right in rates]
    speeds = " : ".join(f"{median(pair[index] for pair in rates):,.0f}" for index in (0, 1))
    print(
        f"| {name} | {beside} | {speeds} | {median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] |",
        flush=True,
    )
    return median(ratios)
