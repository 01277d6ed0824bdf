"""Workers that gather for a job, with real supervisors and children that do as they are told."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

import app
from app.config import Settings
from app.db import transaction
from app.errors import InvalidDataset
from app.fleet import service as fleet
from app.jobs.tables import Gang, GangSeat, Job
from app.models.tables import Model
from tests.workers.conftest import FAKE_CHILD, HANG, add_job, problem_code, read_job, rows, run
from tests.workers.nodes.test_gang import gather
from tests.workers.test_supervisor import lines, wait_until
from workers import running, supervisor
from workers.problems import ProcessDied

SETTINGS = {"train_address": "127.0.0.1", "gather_seconds": 60, "gather_attempts": 2}
BAD_LABEL = InvalidDataset("the label of sample 7 is 12").problem()
ALONE = ProcessDied("the processes of this node could not go on without the others").problem()


@pytest.fixture(autouse=True)
def trains_with_others(
    quick_sqlite: Settings, settings_of: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    settings_of(**SETTINGS)
    monkeypatch.setattr(running, "WORKER_ID", "wrk_first")
    running.trains_with_others.set()
    yield
    running.trains_with_others.clear()


@pytest.fixture
def background() -> Iterator[Callable[..., "Future[None]"]]:
    """Hears a message as the worker of this name does, in a thread of its own."""
    with ThreadPoolExecutor(4) as pool:

        def hear(job: Job, worker: str) -> "Future[None]":
            running.WORKER_ID = worker
            return pool.submit(supervisor.run, job.id, FAKE_CHILD)

        yield hear
        running.stopping.set()  # where a test failed, nothing is left


def job_on(model: Model, nodes: int, first: list[Any], others: list[Any] | None = None, **values: Any) -> Job:
    """A job that trains on so many nodes; what its children do."""
    job = add_job(model, [["by_node", first, others or []]], **values)
    step = {"pass": "finetune", "params": {"distributed": {"nodes": nodes}}, "inputs": {}}
    request = {**job.request, "recipe": {**job.request["recipe"], "passes": [step]}}
    with transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(request=request))
    return job


def both(job: Job, background: Callable[..., "Future[None]"]) -> list["Future[None]"]:
    """Two workers hear of a job: the second takes a place."""
    first = background(job, "wrk_first")
    wait_until(lambda: rows(Gang))
    return [first, background(job, "wrk_second")]


def ended(futures: list["Future[None]"]) -> None:
    for each in futures:
        each.result(timeout=60)


def test_both_train_and_the_first_has_the_result(
    model: Model, background: Callable[..., "Future[None]"], tmp_path: Path
) -> None:
    first, other = str(tmp_path / "first"), str(tmp_path / "other")
    job = job_on(model, 2, [["gather", 2], ["wait_for", other], ["mark", first]], [["mark", other]])
    ended(both(job, background))
    now = read_job(job.id)
    assert (now.status, now.worker_id, now.attempt) == ("succeeded", "wrk_first", 1)
    assert (len(lines(tmp_path / "first")), len(lines(tmp_path / "other"))) == (1, 1)
    assert (rows(Gang), rows(GangSeat)) == ([], [])


def test_nodes_that_do_not_come(model: Model, settings_of: Callable[..., Settings], tmp_path: Path) -> None:
    settings_of(gather_seconds=1)
    mark = str(tmp_path / "together")
    job = job_on(model, 2, [["gather", 2], ["mark", mark]])
    now = run(job)
    assert (now.status, now.gathered, now.stalled_attempts, rows(Gang)) == ("queued", 1, 0, [])
    assert now.not_before is not None
    assert run(job).attempt == 1, "it is not claimed before its time"
    with transaction() as session:
        session.execute(update(Job).values(not_before=None))
    now = run(job)
    assert (now.status, problem_code(now)) == ("failed", "no_worker")
    assert now.problem is not None
    assert "2 nodes were asked for, and 0 workers that train with others are online" in now.problem["detail"]
    assert not Path(mark).exists()


def test_nodes_that_are_busy_are_waited_for(model: Model, settings_of: Callable[..., Settings]) -> None:
    settings_of(gather_seconds=1)
    with transaction() as session:
        for number in range(2):
            fleet.register(
                session,
                worker_id=f"wrk_{number}",
                host=f"host-{number}",
                pid=number,
                version=app.__version__,
                queues=["runtime.onnxruntime-cpu"],
                runtimes={},
                hardware={fleet.TRAINS_WITH_OTHERS: True},
            )
    job = job_on(model, 2, [["gather", 2]])
    for _ in range(3):
        now = run(job)
        assert (now.status, now.gathered, now.stalled_attempts) == ("queued", 0, 0)
        with transaction() as session:
            session.execute(update(Job).values(not_before=None))


def test_with_fewer_where_the_job_takes_them(model: Model, settings_of: Callable[..., Settings]) -> None:
    settings_of(gather_seconds=1)
    assert run(job_on(model, 3, [["gather", 3, 1]])).status == "succeeded"


def test_what_another_node_finds_wrong_is_the_jobs_problem(
    model: Model, background: Callable[..., "Future[None]"], tmp_path: Path
) -> None:
    mark = str(tmp_path / "failing")
    others = [["mark", mark], ["fail", BAD_LABEL]]
    job = job_on(model, 2, [["gather", 2], ["wait_for", mark], ["fail", ALONE, True]], others)
    ended(both(job, background))
    now = read_job(job.id)
    assert (now.status, problem_code(now)) == ("failed", "invalid_dataset")
    assert now.problem is not None
    assert now.problem["detail"] == BAD_LABEL["detail"]


def test_a_node_that_dies_is_no_fault_of_the_job(
    model: Model, background: Callable[..., "Future[None]"], tmp_path: Path
) -> None:
    mark = str(tmp_path / "dying")
    others = [["mark", mark], ["signal", 9]]
    job = job_on(model, 2, [["gather", 2], ["wait_for", mark], ["fail", ALONE, True]], others)
    ended(both(job, background))
    assert (read_job(job.id).status, read_job(job.id).attempt) == ("queued", 1)


def test_a_node_that_is_silent_ends_the_attempt(
    model: Model, background: Callable[..., "Future[None]"], tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    job = job_on(model, 2, [["gather", 2], ["mark", str(pids)], HANG], [["mark", str(pids)], HANG])
    futures = both(job, background)
    wait_until(lambda: len(lines(pids)) == 2)
    with transaction() as session:  # as of a worker whose machine is gone
        session.execute(update(GangSeat).where(GangSeat.node == 1).values(worker_id="wrk_gone"))
    ended(futures)
    now = read_job(job.id)
    assert (now.status, now.attempt) == ("queued", 1)


@pytest.mark.parametrize("change", [{"status": "cancelling"}, {"status": "queued", "attempt": 2}])
def test_nobody_helps_an_attempt_that_is_over(
    model: Model, background: Callable[..., "Future[None]"], tmp_path: Path, change: dict[str, Any]
) -> None:
    pids = tmp_path / "pids"
    job = job_on(model, 2, [["gather", 2], ["mark", str(pids)], HANG], [["mark", str(pids)], HANG])
    futures = both(job, background)
    wait_until(lambda: len(lines(pids)) == 2)
    with transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(**change))
    ended(futures)
    assert read_job(job.id).status in ("cancelled", "queued")


def test_a_younger_one_makes_room_for_an_older_one(
    model: Model, background: Callable[..., "Future[None]"]
) -> None:
    older = job_on(model, 2, [], created_at=datetime.now(UTC) - timedelta(hours=1))
    with transaction() as session:
        session.execute(update(Job).values(queue="elsewhere"))
    younger = job_on(model, 2, [["gather", 2]])
    future = background(younger, "wrk_first")
    wait_until(lambda: rows(Gang))
    with transaction() as session:
        session.execute(update(Job).where(Job.id == older.id).values(queue=younger.queue))
    gather(older, "wrk_second")
    ended([future])
    now = read_job(younger.id)
    assert (now.status, now.gathered, now.stalled_attempts) == ("queued", 0, 0)
    assert [one.job_id for one in rows(Gang)] == [older.id]


def test_a_node_that_leaves_with_a_problem_ends_the_attempt(
    model: Model, background: Callable[..., "Future[None]"], tmp_path: Path
) -> None:
    mark = str(tmp_path / "failing")
    job = job_on(model, 2, [["gather", 2], HANG], [["mark", mark], ["fail", ALONE]])
    ended(both(job, background))
    assert (read_job(job.id).status, len(lines(tmp_path / "failing"))) == ("queued", 1)
    with transaction() as session:
        session.execute(update(Job).values(status="cancelled"))
    job = job_on(model, 2, [["gather", 2], HANG], [["mark", mark], ["fail", BAD_LABEL]])
    ended(both(job, background))
    assert (read_job(job.id).status, problem_code(read_job(job.id))) == ("failed", "invalid_dataset")


def test_nodes_that_are_not_needed_any_more_go(
    model: Model, background: Callable[..., "Future[None]"], tmp_path: Path
) -> None:
    mark = str(tmp_path / "trains")
    first = [["gather", 2], ["wait_for", mark], ["dismiss"], ["sleep", 2]]
    job = job_on(model, 2, first, [["mark", mark], HANG])
    ended(both(job, background))
    assert read_job(job.id).status == "succeeded"


def test_a_child_that_wants_more_nodes_than_its_job(model: Model) -> None:
    now = run(job_on(model, 2, [["gather", 64]], stalled_attempts=2))
    assert (now.status, problem_code(now)) == ("failed", "crashed")


def test_a_worker_without_an_address(model: Model, settings_of: Callable[..., Settings]) -> None:
    settings_of(train_address="")
    running.trains_with_others.clear()
    now = run(job_on(model, 2, [["gather", 2]]))
    assert (now.status, problem_code(now)) == ("failed", "invalid_params")
    assert now.problem is not None
    assert "BURNISH_TRAIN_ADDRESS" in now.problem["hint"]
