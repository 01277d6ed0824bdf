"""What holds a child: time, memory, disk, network, secrets."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from app.artifacts.tables import Artifact
from app.config import Settings
from app.db import transaction
from app.jobs.tables import Job
from app.models.tables import Model
from app.storage import get_storage
from tests.workers.conftest import FAKE_CHILD, HANG, add_job, problem_code, read_job, rows, run


def test_running_limit(model: Model) -> None:
    job = run(add_job(model, [["progress", "measuring"], HANG], running_seconds=2))
    assert (job.status, problem_code(job)) == ("timed_out", "timed_out")
    assert job.problem is not None
    assert (job.problem["param"], job.problem["stage"]) == ("limits.running_seconds", "measuring")


def test_a_child_that_hangs_fails(model: Model, settings_of: Callable[..., Settings]) -> None:
    settings_of(step_seconds=2)
    slow_but_alive = [action for _ in range(6) for action in (["sleep", 0.6], ["progress", "x"])]
    job = run(add_job(model, [*slow_but_alive, ["print", "waiting for nothing"], HANG]))
    assert (job.status, problem_code(job)) == ("failed", "timed_out")
    assert job.started_at is not None
    assert job.finished_at is not None
    assert (job.finished_at - job.started_at).total_seconds() > 5, "as long as it spoke it was left alone"


def test_too_much_memory(model: Model, settings_of: Callable[..., Settings]) -> None:
    settings_of(child_memory_bytes=200 * 1024 * 1024)
    job = run(add_job(model, [["progress", "pass:quantize"], ["eat", 500]]))
    assert (job.status, problem_code(job)) == ("failed", "out_of_memory")
    assert job.problem is not None
    assert job.problem["stage"] == "pass:quantize"


def test_the_kernel_takes_the_child_where_memory_runs_out(model: Model, small_memory: Path) -> None:
    job = add_job(model, [["progress", "pass:quantize"], ["eat", 1000]])
    code = (
        "import os, pathlib, sys\n"
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "from workers import supervisor\n"
        "supervisor.run(sys.argv[2], sys.argv[3:])\n"
    )
    procs = str(small_memory / "cgroup.procs")
    subprocess.run([sys.executable, "-c", code, procs, job.id, *FAKE_CHILD], check=True)
    ended = read_job(job.id)
    assert (ended.status, problem_code(ended)) == ("failed", "out_of_memory")
    assert ended.problem is not None
    assert ended.problem["detail"].startswith("the system ran out of memory")


@pytest.fixture
def small_memory(settings_of: Callable[..., Settings]) -> Iterator[Path]:
    """A control group whose processes may hold 300 MiB, less than the watchdog allows."""
    settings_of(child_memory_bytes=2**40)
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    root, name = (v1, "memory.limit_in_bytes") if v1.is_dir() else (v2, "memory.max")
    folder = root / f"burnish-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / name).write_text("300M")
    except OSError:
        pytest.skip("only root may make a control group")
    try:
        yield folder
    finally:
        folder.rmdir()


def test_a_full_disk(model: Model, small_disk: Path, settings_of: Callable[..., Settings]) -> None:
    get_storage().materialize(model.digest or "", small_disk.parent / "kept")
    settings_of(storage_dir=small_disk)
    get_storage.cache_clear()
    get_storage().put_tree(small_disk.parent / "kept")
    job = run(add_job(model, [["progress", "building"], ["artifacts", "x" * 2_000_000]]))
    assert (job.status, problem_code(job)) == ("failed", "disk_full")
    assert rows(Artifact) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_what_a_child_may(
    model: Model,
    tmp_path: Path,
    settings_of: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    listener: str,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    settings = settings_of(child_file_bytes=8 * 1024 * 1024, child_memory_bytes=3_000_000_000)
    job = add_job(model, [["report", str(tmp_path / "report")]])
    with transaction() as session:
        request = {**job.request, "options": {"no_cache": False, "reach": listener}}
        session.execute(update(Job).values(request=request))
    job = run(job)
    assert job.status == "succeeded", job.problem
    seen = json.loads((tmp_path / "report").read_text())
    assert seen["subject"] == "not opened by these tests"
    assert not [name for name in seen["environment"] if "AWS" in name or name == "BURNISH_DATABASE_URL"]
    assert Path(seen["cwd"]).is_relative_to(settings.scratch_path)
    assert Path(seen["environment"]["TMPDIR"]).is_relative_to(settings.scratch_path)
    assert seen["file"] == "File too large"
    assert seen["memory_bytes"] == 3_000_000_000
    assert seen["network"] is False


@pytest.fixture
def listener() -> Iterator[str]:
    """Somebody who would answer, if the child could reach anybody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"
