"""Whole workers: real processes, a real broker, messages, signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.artifacts.tables import Artifact
from app.auth.tables import DEFAULT_PROJECT
from app.catalog.runtimes import RUNTIMES
from app.config import Settings
from app.db import transaction
from app.fleet.tables import Worker
from app.ids import new_id
from app.jobs.tables import Job
from app.models.tables import Model
from app.queue import send_inspect, send_job
from app.storage import get_storage
from tests.services import running_redis
from tests.workers.conftest import add_job, add_model, event_kinds, quicken, read_job
from tests.workers.test_supervisor import alive, change, lines, wait_until

ROOT = Path(__file__).parents[2]
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(quick: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts workers, and ends them with the test."""
    yield from starting(tmp_path)


@pytest.fixture
def start_sqlite(quick_sqlite: Settings, tmp_path: Path) -> Iterator[Start]:
    """The same on SQLite alone."""
    yield from starting(tmp_path)


def starting(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start(concurrency: int = 2) -> subprocess.Popen[bytes]:
        with transaction(readonly=True) as session:
            before = set(session.scalars(select(Worker.id)))
        log = (tmp_path / f"worker-{len(started)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.workers.fake_worker", str(concurrency)],
            cwd=ROOT,
            stderr=log,
            stdout=log,
        )
        started.append(process)

        def registered() -> bool:
            assert process.poll() is None, (tmp_path / f"worker-{len(started) - 1}.log").read_text()
            with transaction(readonly=True) as session:
                return bool(set(session.scalars(select(Worker.id))) - before)

        wait_until(registered, 40)
        log.close()
        return process

    try:
        yield start
    finally:
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


def ring(job: Job, times: int = 1) -> None:
    with transaction() as session:
        for _ in range(times):
            send_job(session, job.id, job.queue)


def ended(job: Job, seconds: float = 40) -> Job:
    wait_until(lambda: read_job(job.id).finished_at, seconds)
    return read_job(job.id)


def test_two_workers_and_a_doubled_message_run_a_job_once(start_sqlite: Start, tmp_path: Path) -> None:
    start_sqlite()
    start_sqlite()
    job = add_job(add_model(tmp_path), [["mark", str(tmp_path / "ran")], ["artifacts", "an engine"]])
    ring(job, times=6)
    assert ended(job).status == "succeeded"
    time.sleep(1)
    assert len(lines(tmp_path / "ran")) == 1
    assert read_job(job.id).attempt == 1


def test_a_message_that_was_lost_is_sent_again(start_sqlite: Start, tmp_path: Path) -> None:
    job = add_job(add_model(tmp_path), [])
    start_sqlite()
    assert ended(job).status == "succeeded"


def test_a_killed_worker_loses_no_job_and_leaves_no_process(start: Start, tmp_path: Path) -> None:
    pids, marks, crashed = tmp_path / "pids", tmp_path / "marks", tmp_path / "crashed"
    first = start()
    script = [
        ["step", "one", "1" * 64, str(marks)],
        ["once", str(crashed), [["mark", str(pids)], ["sleep", 600]]],
    ]
    job = add_job(add_model(tmp_path), script)
    ring(job)
    (pid,) = wait_until(lambda: lines(pids))
    first.kill()
    wait_until(lambda: not alive(pid), 5)
    start()
    done = ended(job)
    assert (done.status, done.attempt) == ("succeeded", 2)
    assert len(lines(marks)) == 1, "the second attempt went on from the stored step"
    assert event_kinds(job.id).count("status:queued") == 1


def test_a_killed_child_is_tried_again(start_sqlite: Start, tmp_path: Path) -> None:
    pids, once = tmp_path / "pids", tmp_path / "once"
    worker = start_sqlite()
    job = add_job(add_model(tmp_path), [["once", str(once), [["mark", str(pids)], ["sleep", 600]]]])
    ring(job)
    (pid,) = wait_until(lambda: lines(pids))
    os.kill(pid, signal.SIGKILL)
    done = ended(job)
    assert (done.status, done.attempt) == ("succeeded", 2)
    assert worker.poll() is None


def test_a_worker_that_slept_through_its_lease_writes_nothing(start: Start, tmp_path: Path) -> None:
    pids, once = tmp_path / "pids", tmp_path / "once"
    sleeper = start(1)
    stale_script = [["mark", str(pids)], ["sleep", 1], ["progress", "stale"], ["artifacts", "stale"]]
    script = [["once", str(once), stale_script], ["sleep", 4]]
    job = add_job(add_model(tmp_path), script)
    ring(job)
    (stale,) = wait_until(lambda: lines(pids))
    sleeper.send_signal(signal.SIGSTOP)
    start(1)
    wait_until(lambda: read_job(job.id).attempt == 2 and read_job(job.id).status == "running")
    second = read_job(job.id)
    sleeper.send_signal(signal.SIGCONT)
    wait_until(lambda: not alive(stale), 10)
    done = ended(job)
    assert (done.status, done.attempt, done.worker_id) == ("succeeded", 2, second.worker_id)
    assert "progress" not in event_kinds(job.id)
    with transaction(readonly=True) as session:
        assert session.scalars(select(Artifact)).all() == []
    assert sleeper.poll() is None


def test_warm_shutdown_gives_the_job_back_at_once(start_sqlite: Start, tmp_path: Path) -> None:
    pids, once = tmp_path / "pids", tmp_path / "once"
    worker = start_sqlite()
    job = add_job(add_model(tmp_path), [["once", str(once), [["mark", str(pids)], ["sleep", 600]]]])
    ring(job)
    (pid,) = wait_until(lambda: lines(pids))
    worker.terminate()
    assert worker.wait(15) == 0
    now = read_job(job.id)
    assert (now.status, now.stalled_attempts) == ("queued", 0)
    assert not alive(pid)
    with transaction(readonly=True) as session:
        assert session.scalars(select(Worker.stopped_at)).one() is not None
    start_sqlite()
    assert ended(job).status == "succeeded"


def test_a_broker_that_comes_back(
    burnish_sqlite: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_redis() as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        monkeypatch.setenv("BURNISH_REDIS_URL", url)
        quicken(monkeypatch)
        workers = starting(tmp_path)
        worker = next(workers)()
        pids = tmp_path / "pids"
        first = add_job(add_model(tmp_path), [["mark", str(pids)], ["sleep", 3]])
        ring(first)
        wait_until(lambda: lines(pids))
    assert ended(first).status == "succeeded", "what runs needs no broker"
    second = add_job(add_model(tmp_path))
    with running_redis(port):
        assert ended(second).status == "succeeded"
        assert worker.poll() is None
        workers.close()


def test_cancel_reaches_the_child(start_sqlite: Start, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    start_sqlite()
    job = add_job(add_model(tmp_path), [["mark", str(pids)], ["sleep", 600]])
    ring(job)
    (pid,) = wait_until(lambda: lines(pids))
    change(job, status="cancelling")
    assert ended(job, 8).status == "cancelled"
    assert not alive(pid)


def test_abandoned_folders_go(start_sqlite: Start, tmp_path: Path, quick_sqlite: Settings) -> None:
    gone = quick_sqlite.scratch_path / "job_nobody-1"
    other = quick_sqlite.scratch_path / "not ours"
    for folder in (gone, other):
        folder.mkdir(parents=True)
    start_sqlite()
    wait_until(lambda: not gone.exists())
    assert other.exists()


def add_upload(folder: Path, script: list[object]) -> Model:
    source = folder / new_id("up")
    source.write_bytes(b"bytes of a model")
    blob = get_storage().put_file(source)
    model = Model(
        id=new_id("mdl"),
        project_id=DEFAULT_PROJECT,
        name="a model",
        filename="model.onnx",
        status="inspecting",
        upload_digest=blob.digest,
        size_bytes=blob.size_bytes,
        declared={"script": script},
    )
    with transaction() as session:
        session.add(model)
        send_inspect(session, model.id)
    return model


def inspected(model: Model) -> Model:
    def settled() -> Model | None:
        with transaction(readonly=True) as session:
            row = session.get_one(Model, model.id)
            session.expunge(row)
        return row if row.status != "inspecting" else None

    return wait_until(settled, 40)


def test_inspections_end_ready_or_rejected(start_sqlite: Start, tmp_path: Path) -> None:
    start_sqlite()
    found = {"root": "tree", "format": "onnx", "signature": {"inputs": []}, "facts": {"entry": "m"}}
    tried = tmp_path / "tried"
    good = add_upload(
        tmp_path, [["once", str(tmp_path / "once"), [["exit", 1]]], ["tree"], ["result", found]]
    )
    bad = add_upload(tmp_path, [["mark", str(tried)], ["print", "out of luck"], ["signal", signal.SIGSEGV]])
    outside = add_upload(tmp_path, [["result", {**found, "root": "/etc"}]])
    ready = inspected(good)
    assert (ready.status, ready.format, ready.inspect_attempts) == ("ready", "onnx", 2)
    assert ready.digest is not None
    assert [entry.path for entry in get_storage().tree(ready.digest)] == ["model.onnx"]
    rejected = inspected(bad)
    assert (rejected.status, len(lines(tried))) == ("rejected", 3)
    assert rejected.problem is not None
    assert rejected.problem["code"] == "crashed"
    assert "out of luck" in rejected.problem["detail"]
    assert inspected(outside).status == "rejected"


def test_a_slow_inspection_is_rejected(
    settings_of: Callable[..., Settings], quick_sqlite: Settings, tmp_path: Path
) -> None:
    from tests.workers.conftest import FAKE_CHILD
    from workers import inspection

    settings_of(inspect_seconds=2)
    model = add_upload(tmp_path, [["sleep", 600]])
    inspection.inspect(model.id, FAKE_CHILD)
    row = inspected(model)
    assert row.problem is not None
    assert (row.status, row.problem["code"]) == ("rejected", "timed_out")


def test_the_probe_tells_of_this_machine() -> None:
    from workers.worker import probe

    found = probe(["onnxruntime-cpu", "openvino-cpu"])
    assert set(found["runtimes"]) == {"onnxruntime-cpu", "openvino-cpu"}, found["failed"]
    assert "onnxruntime" in found["runtimes"]["onnxruntime-cpu"]["versions"]
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory_bytes"] > 0


def test_a_worker_tries_what_is_offered_and_needed(
    burnish_sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.worker import wanted

    monkeypatch.setattr(burnish_sqlite, "runtimes", "")
    assert wanted(None) == list(RUNTIMES)
    assert wanted(["inspect"]) == []
    assert wanted(["inspect", "runtime.openvino-cpu"]) == ["openvino-cpu"]
    assert wanted(["runtime.tensorrt-rtx.sm89"]) == ["tensorrt-rtx"]
    monkeypatch.setattr(burnish_sqlite, "runtimes", "onnxruntime-cpu, openvino-cpu")
    assert wanted(None) == ["onnxruntime-cpu", "openvino-cpu"]
    assert wanted(["runtime.torch-eager"]) == []
    monkeypatch.setattr(burnish_sqlite, "runtimes", "onnxruntime-cpu,no-such")
    with pytest.raises(ValueError, match=r"names no-such; there are .*onnxruntime-cpu"):
        wanted(None)


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`serving(found, queues)`: what a worker serves on a machine where the probe found that; [] where it does not start."""
    from workers import worker

    served: list[str] = []

    class Serving:
        def worker_main(self, arguments: list[str]) -> None:
            (queues,) = (one for one in arguments if one.startswith("--queues="))
            served[:] = queues.removeprefix("--queues=").split(",")

    def serve(found: dict[str, Any], queues: list[str] | None) -> list[str]:
        served.clear()
        monkeypatch.setattr(worker, "probe", lambda names: found)
        assert worker.main(queues, 1) == (0 if served else 1)
        return list(served)

    monkeypatch.setattr("workers.celery_app.make", lambda queues, found: Serving())
    monkeypatch.setattr("workers.sandbox.privileges.close_memory", lambda: None)
    return serve


def test_a_worker_serves_no_queue_that_its_machine_cannot(
    burnish_sqlite: Settings, serving: Callable[..., list[str]]
) -> None:
    found = {
        "runtimes": {"onnxruntime-cpu": {}}, "failed": {"openvino-cpu": "it is broken"}, "sandbox": {}, "hardware": {"gpus": []},
    }  # fmt: skip
    own = "runtime.onnxruntime-cpu"
    assert serving(found, [own, "runtime.openvino-cpu", f"{own}.sm89"]) == [own]
    assert serving(found, None) == ["inspect", own]
    assert serving(found, ["runtime.openvino-cpu"]) == []


def test_the_queue_of_a_runtime_brings_those_of_its_gpus(
    burnish_sqlite: Settings, serving: Callable[..., list[str]]
) -> None:
    gpus = [{"compute_capability": "8.9"}]
    found = {"runtimes": {"tensorrt-rtx": {}}, "failed": {}, "sandbox": {}, "hardware": {"gpus": gpus}}
    both, one = "runtime.tensorrt-rtx", "runtime.tensorrt-rtx.sm89"
    assert serving(found, [both]) == [both, one]
    assert serving(found, [one]) == [one]


def test_a_runtime_that_cannot_be_tried_names_its_reason() -> None:
    from workers.probe import try_runtime

    with pytest.raises(RuntimeError, match=r"No module named .*no_such_runtime"):
        try_runtime("no-such-runtime")


def test_a_worker_knows_every_table() -> None:
    code = (
        "import sys, workers.worker\n"
        "from app.db import Base\n"
        "known = set(Base.metadata.tables)\n"
        "import app.tables\n"
        "sys.exit(','.join(set(app.tables.metadata.tables) - known) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_a_worker_loads_no_model_library() -> None:
    code = (
        "import sys, workers.worker, workers.__main__\n"
        "sys.exit(','.join({'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
