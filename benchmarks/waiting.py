"""500 long polls and 500 event streams held by one API process: its memory, and how soon all of them hear of a change."""

import asyncio
import re
import sys
import time
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import psutil
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from app.auth.service import create_key
from app.auth.tables import DEFAULT_PROJECT
from app.db import make_engine
from app.jobs import lease
from app.jobs.tables import Job
from benchmarks.loopback import burnish, grounds, request, serving
from benchmarks.rows import fill_jobs

POLLS = STREAMS = 500
CHANGES = 10
PAUSE_SECONDS = 5.0  # between two changes: every poll is asked again meanwhile
MOST_BYTES = 256 * 2**20
MOST_SECONDS = 1.0  # until everybody has heard

_MESSAGE = re.compile(rb'"message": ?"change (\d+)"')


@dataclass
class Heard:
    """When each waiter of a kind heard of each change, in seconds of this machine's clock."""

    at: dict[int, list[float]] = field(default_factory=dict)

    def note(self, data: bytes) -> None:
        """Take what a waiter received."""
        if found := _MESSAGE.search(data):
            self.at.setdefault(int(found[1]), []).append(time.monotonic())


def main() -> int:
    """Print the table; 1 where memory or time is more than it may be, or a waiter did not hear."""
    with grounds() as place:
        database_url = place.database("waiting")
        environment = place.environment(database_url)
        burnish("migrate", environment=environment)
        engine = make_engine(database_url)
        key, job_id = _job_under_way(engine)
        with serving("api", "app.cli", place.folder, environment) as api:
            process = psutil.Process(api.pid)
            empty = process.memory_info().rss
            polls, streams, made, held = asyncio.run(_measure(api.port, key, job_id, engine, process))
        engine.dispose()
    failed = held > MOST_BYTES
    print("| | |")
    print("| --- | --- |")
    print(
        f"| memory of the process: empty, with {POLLS} polls and {STREAMS} streams | {empty / 2**20:.0f} MiB, {held / 2**20:.0f} MiB |"
    )
    for name, heard, count in (("polls", polls, POLLS), ("streams", streams, STREAMS)):
        delays = [np.array(heard.at.get(number, [])) - moment for number, moment in enumerate(made)]
        if any(len(one) < count for one in delays):
            print(
                f"of {count} {name}, only {[len(one) for one in delays]} heard of the changes",
                file=sys.stderr,
            )
            failed = True
            continue
        last = [float(one.max()) for one in delays]
        middle = float(np.median(np.concatenate(delays)))
        print(
            f"| a change, seen by all {name}: median of {CHANGES}, slowest | {median(last):.2f} s, {max(last):.2f} s |"
        )
        print(f"| a change, seen by one of the {name}: median | {middle:.2f} s |")
        failed |= median(last) > MOST_SECONDS
    return 1 if failed else 0


def _job_under_way(engine: Engine) -> tuple[str, str]:
    """A key, and a job that a worker holds."""
    with Session(engine) as session:
        key = create_key(session, DEFAULT_PROJECT, "benchmark", ["read"])[1]
        job_id = fill_jobs(session, 40)
        running = {"status": "running", "finished_at": None, "result": None, "attempt": 1}
        session.execute(update(Job).where(Job.id == job_id).values(**running))
        session.commit()
    return key, job_id


async def _measure(
    port: int, key: str, job_id: str, engine: Engine, process: psutil.Process
) -> tuple[Heard, Heard, list[float], int]:
    polls, streams = Heard(), Heard()
    waiting = [asyncio.create_task(_poll(port, key, job_id, polls)) for _ in range(POLLS)]
    waiting += [asyncio.create_task(_stream(port, key, job_id, streams)) for _ in range(STREAMS)]
    made, most = [], 0
    await asyncio.sleep(2 * PAUSE_SECONDS)
    for number in range(CHANGES):
        made.append(await asyncio.to_thread(_change, engine, job_id, number))
        await asyncio.sleep(PAUSE_SECONDS)
        most = max(most, process.memory_info().rss)
    for task in waiting:
        task.cancel()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error
    return polls, streams, made, most


def _change(engine: Engine, job_id: str, number: int) -> float:
    """Write a job's progress as its worker does; when that was committed."""
    said = {"done": number, "total": CHANGES, "message": f"change {number}"}
    with Session(engine) as session:
        lease.progress(session, job_id, 1, "measuring", said)
        session.commit()
    return time.monotonic()


async def _poll(port: int, key: str, job_id: str, heard: Heard) -> None:
    """Ask for the job's next state again and again, on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            writer.write(request(f"/v1/jobs/{job_id}?wait=60", key))
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            assert head.startswith(b"HTTP/1.1 200"), head
            assert length is not None
            heard.note(await reader.readexactly(int(length[1])))
    finally:
        writer.close()


async def _stream(port: int, key: str, job_id: str, heard: Heard) -> None:
    """Follow the job's events."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request(f"/v1/jobs/{job_id}/events", key))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        while line := await reader.readline():
            heard.note(line)
    finally:
        writer.close()
