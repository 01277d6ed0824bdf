"""Workers that are told to stop, and told again, and cannot say goodbye."""

import signal
import time
from pathlib import Path

import pytest

from tests.faults.jobs import Start, ended, submit
from tests.faults.parts import until
from tests.faults.proxy import Line, Proxy
from tests.workers.conftest import add_model, read_job
from tests.workers.test_supervisor import alive, lines

MOST_SECONDS = 60


def test_told_twice_a_worker_still_gives_its_job_back(start: Start, tmp_path: Path) -> None:
    model, pids = add_model(tmp_path), tmp_path / "pids"
    worker = start()
    job = submit(
        model, [["once", str(tmp_path / "once"), [["mark", str(pids)], ["sleep", 600]]], ["artifacts", "x"]]
    )
    (child,) = until(lambda: lines(pids))
    assert worker.process is not None
    worker.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    worker.process.send_signal(signal.SIGTERM)
    worker.process.wait(MOST_SECONDS)
    until(lambda: not alive(child))
    until(lambda: read_job(job.id).status == "queued")
    assert read_job(job.id).stalled_attempts == 0
    start()
    assert (ended(job).status, read_job(job.id).attempt) == ("succeeded", 2)


@pytest.mark.slow
def test_a_worker_that_cannot_reach_the_database_stops_all_the_same(
    start: Start, database_line: tuple[Proxy, str], tmp_path: Path
) -> None:
    line, url = database_line
    model, pids = add_model(tmp_path), tmp_path / "pids"
    worker = start(1, database_url=url)
    job = submit(
        model, [["once", str(tmp_path / "once"), [["mark", str(pids)], ["sleep", 600]]], ["artifacts", "x"]]
    )
    (child,) = until(lambda: lines(pids))
    line.line = Line.SILENT
    worker.stop(signal.SIGTERM, MOST_SECONDS)
    until(lambda: not alive(child))
    start()
    assert (ended(job).status, read_job(job.id).attempt) == ("succeeded", 2)
