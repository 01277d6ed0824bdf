"""What a killed worker leaves behind is ended by the next one on its host."""

import os
import subprocess
import sys

from app.config import Settings
from tests.faults.parts import until
from workers import child_process, orphans, sweep


def test_marked_processes_of_an_abandoned_attempt_are_killed(
    burnish_sqlite: Settings,
) -> None:
    folder = burnish_sqlite.scratch_path / "job_gone-1"
    folder.mkdir(parents=True)
    left, other = (
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"],
            env={**os.environ, child_process.MARK: mark},
            start_new_session=True,
        )
        for mark in ("job_gone-1", "job_gone-2")
    )
    try:
        sweep.remove_abandoned()
        until(lambda: left.poll() is not None)
        assert not folder.exists()
        assert other.poll() is None
        assert orphans.kill("job_gone-1") == 0
    finally:
        for process in (left, other):
            process.kill()
            process.wait()
