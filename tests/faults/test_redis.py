"""Redis forgets everything, or is away for longer than any lease: it was only ever a doorbell."""

import os
import sys
from pathlib import Path

import pytest
import redis

from app.config import Settings
from tests.conftest import forget_process_state
from tests.faults.jobs import ended, entered, submit
from tests.faults.parts import Program, Redis, ending, until
from tests.workers.conftest import add_model, event_kinds, quicken, read_job
from tests.workers.test_supervisor import lines


def test_jobs_survive_a_broker_that_forgets_and_dies(
    burnish_sqlite: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Redis(tmp_path)
    monkeypatch.setenv("BURNISH_REDIS_URL", broker.url)
    settings = quicken(monkeypatch)
    worker = Program(
        "worker",
        (sys.executable, "-m", "tests.workers.fake_worker", "1"),
        dict(os.environ),
        tmp_path / "worker.log",
    )
    with ending(worker, broker):
        broker.start()
        worker.start()
        until(lambda: entered(worker.pid))
        model, marks = add_model(tmp_path), tmp_path / "marks"

        # away for longer than the lease
        running = submit(
            model, [["mark", str(marks)], ["sleep", 2 * settings.lease_seconds], ["artifacts", "one"]]
        )
        until(lambda: lines(marks))
        broker.kill()
        waiting = submit(model, [["artifacts", "two"]])  # nobody hears of it
        assert ended(running).attempt == 1
        assert read_job(waiting.id).status == "queued"
        broker.start()
        assert ended(waiting).status == "succeeded"

        # emptied in the middle
        jobs = [submit(model, [["sleep", 0.3], ["artifacts", str(number)]]) for number in range(6)]
        with redis.Redis.from_url(broker.url) as client:
            for job in jobs:
                client.flushall()
                ended(job)
        for job in (running, waiting, *jobs):
            job = read_job(job.id)
            assert (job.status, job.attempt) == ("succeeded", 1)
            assert event_kinds(job.id).count("status:running") == 1
        assert worker.alive
    forget_process_state()
