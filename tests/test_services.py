"""A test run that is killed leaves no server behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
KILLED = """
import os, psutil, signal, tempfile
from pathlib import Path
from tests.services import running_postgres, running_redis

with running_redis(), running_postgres(Path(tempfile.mkdtemp(prefix="bpg", dir=os.environ["FOLDER"]))) as url:
    data = next(Path(os.environ["FOLDER"]).glob("bpg*/data/postmaster.pid"))
    print(data.read_text().split()[0], *(child.pid for child in psutil.Process().children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_servers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        cwd=ROOT,
        env={**os.environ, "FOLDER": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) >= 3
    deadline = time.monotonic() + 20
    while alive := [pid for pid in pids if psutil.pid_exists(pid)]:
        assert time.monotonic() < deadline, [psutil.Process(pid).cmdline() for pid in alive]
        time.sleep(0.1)
