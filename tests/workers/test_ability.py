"""Workers of several versions and sizes on one installation: a job is done as it was planned, or not at all."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

import app
from app.catalog.passes import PASSES
from app.config import Settings
from app.db import transaction
from app.fleet import service as fleet
from app.jobs.tables import Job
from tests.workers.conftest import add_job, add_model, problem_code, read_job, run
from workers import ability, horovod_library
from workers.measure.processors import usable_processors

OWN = PASSES["simplify"].version
STEP = {"pass": "simplify", "params": {}, "version": OWN}
OTHERS = {
    "newer pass": {"recipe": {"passes": [{**STEP, "version": OWN + 1}]}},
    "older pass": {"recipe": {"passes": [{**STEP, "version": OWN - 1}]}},
    "unknown pass": {"recipe": {"passes": [{**STEP, "pass": "not-there-yet"}]}},
    "unknown parameter": {"recipe": {"passes": [{**STEP, "params": {"later": 1}}]}},
    "unknown runtime": {"targets": [{"runtime": "not-there-yet", "params": {}}]},
    "unknown parameter of the runtime": {"targets": [{"runtime": "onnxruntime-cpu", "params": {"later": 1}}]},
}


def planned(folder: Path, **request: Any) -> Job:
    """A queued job as some version planned it."""
    job = add_job(add_model(folder), [])
    if "recipe" in request:
        request["recipe"] = {"schema": 1, "script": [], **request["recipe"]}
    with transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(request={**job.request, **request}))
    return job


def live(version: str, **hardware: Any) -> None:
    """Another worker."""
    with transaction() as session:
        fleet.register(
            session, worker_id="wrk_b", host="b", pid=1, version=version, queues=["runtime.onnxruntime-cpu"],
            runtimes={}, hardware=hardware,
        )  # fmt: skip


@pytest.mark.parametrize("which", OTHERS)
def test_it_is_left_to_a_worker_of_another_version(
    quick_sqlite: Settings, tmp_path: Path, which: str
) -> None:
    live("9.9")
    job = planned(tmp_path, **OTHERS[which])
    after = run(job)
    assert (after.status, after.attempt) == ("queued", 0)


def test_others_behind_it_are_done(quick: Settings, tmp_path: Path) -> None:
    live("9.9")
    first, second = planned(tmp_path, **OTHERS["newer pass"]), planned(tmp_path, recipe={"passes": [STEP]})
    run(first)
    assert (read_job(first.id).status, read_job(second.id).status) == ("queued", "succeeded")


@pytest.mark.parametrize("which", OTHERS)
def test_where_no_other_version_lives_it_fails_and_says_why(
    quick_sqlite: Settings, tmp_path: Path, which: str
) -> None:
    live(app.__version__)
    after = run(planned(tmp_path, **OTHERS[which]))
    assert (after.status, problem_code(after)) == ("failed", "incompatible_recipe")
    assert after.problem is not None
    assert "another version" in after.problem["detail"]
    assert after.problem["param"].startswith(("recipe.passes[0]", "targets[0]"))


MANY = {"targets": [{"runtime": "onnxruntime-cpu", "params": {"threads": usable_processors() + 1}}]}


def test_more_threads_than_processors_are_left_to_a_larger_machine(
    quick_sqlite: Settings, tmp_path: Path
) -> None:
    live(app.__version__, cores=usable_processors() + 1)
    assert run(planned(tmp_path, **MANY)).status == "queued"


def test_where_there_is_none_it_fails_and_says_why(quick_sqlite: Settings, tmp_path: Path) -> None:
    live(app.__version__, cores=1)
    after = run(planned(tmp_path, **MANY))
    assert (after.status, problem_code(after)) == ("failed", "invalid_params")
    assert after.problem is not None
    assert after.problem["param"] == "targets[0].params.threads"


HOROVOD = {
    "recipe": {"passes": [{"pass": "finetune", "params": {"distributed": {"processes": 2, "backend": "horovod"}}, "inputs": {}}]}
}  # fmt: skip


@pytest.fixture
def without_horovod(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this worker had none, also where it does."""
    monkeypatch.setattr(horovod_library, "version", lambda: None)


@pytest.mark.usefixtures("without_horovod")
def test_a_training_by_horovod_is_left_to_a_worker_that_has_it(
    quick_sqlite: Settings, tmp_path: Path
) -> None:
    live(app.__version__, horovod="0.28.1", cores=usable_processors())
    assert run(planned(tmp_path, **HOROVOD)).status == "queued"


@pytest.mark.usefixtures("without_horovod")
def test_where_none_has_horovod_it_fails_and_says_why(quick_sqlite: Settings, tmp_path: Path) -> None:
    live("9.9", cores=usable_processors() + 1)
    after = run(planned(tmp_path, **HOROVOD))
    assert (after.status, problem_code(after)) == ("failed", "invalid_params")
    assert after.problem is not None
    assert "make horovod-env" in after.problem["hint"]


def test_a_worker_with_horovod_does_not_leave_it_to_others(
    quick_sqlite: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(horovod_library, "version", lambda: "0.28.1")
    live(app.__version__, horovod="0.28.1", cores=usable_processors())
    request = {**HOROVOD, "targets": [{"runtime": "onnxruntime-cpu", "params": {}}]}
    request["recipe"]["passes"][0]["params"] = (
        PASSES["finetune"]
        .params.model_validate(request["recipe"]["passes"][0]["params"])
        .model_dump(mode="json")
    )
    assert ability.able(request)
