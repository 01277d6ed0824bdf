"""Wall clocks that jump while jobs run: the database's clock rules, and what waits goes by monotonic ones."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.config import Settings
from tests.faults.jobs import ended, entered, submit
from tests.faults.parts import Program, ending, until
from tests.workers.conftest import add_model, event_kinds, quicken
from tests.workers.test_supervisor import lines

HOUR = 3600


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that moves the clock of who preloads it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("shim") / "clock.so"
    source = Path(__file__).with_name("clock_shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def start(shim: Path, tmp_path: Path) -> Iterator[Callable[[], tuple[Program, Path]]]:
    """Starts a worker, with the file that says by how much its clock is off."""
    with ExitStack() as stack:

        def begin() -> tuple[Program, Path]:
            offset = tmp_path / f"offset-{len(list(tmp_path.glob('offset-*')))}"
            offset.write_text("0")
            worker = Program(
                "worker",
                (sys.executable, "-m", "tests.workers.fake_worker", "1"),
                {**os.environ, "LD_PRELOAD": str(shim), "CLOCK_SHIM": str(offset)},
                tmp_path / f"{offset.name}.log",
            )
            stack.enter_context(ending(worker))
            worker.start()
            until(lambda: entered(worker.pid))
            return worker, offset

        yield begin


def test_the_shim_moves_the_wall_clock_alone(shim: Path, tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    offset.write_text(str(HOUR))
    script = (
        "import time, datetime; print(time.time(), time.monotonic(), datetime.datetime.now().timestamp())"
    )
    bare = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    moved = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LD_PRELOAD": str(shim), "CLOCK_SHIM": str(offset)},
        capture_output=True,
        text=True,
        check=True,
    )
    wall, monotonic, date = (
        float(after) - float(before)
        for before, after in zip(bare.stdout.split(), moved.stdout.split(), strict=True)
    )
    assert wall > HOUR / 2
    assert date > HOUR / 2
    assert monotonic < HOUR / 2


def test_workers_whose_clocks_jump_keep_their_jobs(
    on_postgres: Settings, start: Callable[[], tuple[Program, Path]], tmp_path: Path
) -> None:
    model = add_model(tmp_path)
    workers = [start(), start()]
    jobs = []
    for number in range(2):
        marks = tmp_path / f"marks-{number}"
        jobs.append(submit(model, [["mark", str(marks)], ["sleep", 5], ["artifacts", "an engine"]]))
        until(lambda marks=marks: lines(marks))
    for (_, offset), seconds in zip(workers, (HOUR, -HOUR), strict=True):
        offset.write_text(str(seconds))
    for job in map(ended, jobs):
        assert (job.status, job.attempt) == ("succeeded", 1)
        assert event_kinds(job.id).count("status:succeeded") == 1
    assert all(worker.alive for worker, _ in workers)


@pytest.mark.parametrize("seconds", [HOUR, pytest.param(-HOUR, marks=pytest.mark.slow)])
def test_a_machine_whose_clock_is_the_databases_keeps_its_jobs(
    seconds: int,
    burnish_sqlite: Settings,
    start: Callable[[], tuple[Program, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SQLite's clock is the host's: a laptop that slept for an hour finds every lease over."""
    quicken(monkeypatch)
    model, marks = add_model(tmp_path), tmp_path / "marks"
    worker, offset = start()
    job = submit(
        model, [["mark", str(marks)], ["sleep", 5], ["artifacts", "an engine"]], running_seconds=10 * HOUR
    )
    until(lambda: lines(marks))
    offset.write_text(str(seconds))
    job = ended(job)
    assert (job.status, job.attempt) == ("succeeded", 1)
    assert "database_clock_jumped" in worker.log.read_text()
