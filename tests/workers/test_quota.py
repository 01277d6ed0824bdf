"""What a job makes is held to its project's quota: all of it is kept, or none."""

from pathlib import Path

from sqlalchemy import update

from app.artifacts.tables import Artifact
from app.auth.tables import Project
from app.config import Settings
from app.db import transaction
from app.jobs.tables import Job, StepResult
from app.measurements.tables import Measurement
from app.models.tables import Model
from tests.workers.conftest import add_job, add_model, problem_code, rows, run


def limit(max_stored_bytes: int | None) -> None:
    with transaction() as session:
        session.execute(update(Project).values(max_stored_bytes=max_stored_bytes))


def test_a_result_over_the_quota_is_not_kept_half(quick: Settings, tmp_path: Path) -> None:
    model = add_model(tmp_path)
    limit(model.size_bytes + len("an engine") - 1)
    job = run(add_job(model, [["artifacts", "an engine"]]))
    assert (job.status, problem_code(job)) == ("failed", "quota_exceeded")
    assert job.problem is not None
    assert job.problem["retryable"]
    assert (job.result, rows(Artifact), rows(Measurement)) == (None, [], [])
    limit(model.size_bytes + len("an engine"))
    assert run(add_job(model, [["artifacts", "an engine"]])).status == "succeeded"


def test_a_step_over_the_quota_ends_the_job(model: Model, tmp_path: Path) -> None:
    marks = [str(tmp_path / name) for name in ("one", "second")]
    script = [["step", "one", "1" * 64, marks[0]], ["step", "second", "2" * 64, marks[1]]]
    limit(model.size_bytes + len("one\n") + 1)
    job = run(add_job(model, script))
    assert (job.status, problem_code(job)) == ("failed", "quota_exceeded")
    assert [step.name for step in rows(StepResult)] == ["one"]  # stored before: a retry goes on from it
    limit(None)
    assert run(add_job(model, script)).status == "succeeded"


def test_steps_of_earlier_jobs_give_way_to_those_of_this_one(model: Model, tmp_path: Path) -> None:
    limit(model.size_bytes + len("one\n"))
    first = run(add_job(model, [["step", "one", "1" * 64, str(tmp_path / "mark")]]))
    second = run(add_job(model, [["step", "two", "2" * 64, str(tmp_path / "mark")]]))
    assert (first.status, second.status) == ("succeeded", "succeeded")
    assert [step.name for step in rows(StepResult)] == ["two"]
    assert {job.status for job in rows(Job)} == {"succeeded"}
