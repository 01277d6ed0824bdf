"""What one build remembers, the next one of the same project recalls: through a real supervisor and its child."""

from pathlib import Path

from sqlalchemy import update

from app.auth.tables import Project
from app.db import transaction
from app.ids import new_id
from app.jobs.tables import Job, StepResult
from app.models.tables import Model
from tests.workers.conftest import add_job, rows, run


def test_the_newest_is_recalled_in_the_same_job_and_in_later_ones(model: Model, tmp_path: Path) -> None:
    said = tmp_path / "said"
    first = [
        ["recall", "gpu", str(said)],
        ["remember", "gpu", "one"],
        ["recall", "gpu", str(said)],
        ["remember", "gpu", "two"],
        ["recall", "gpu", str(said)],
    ]
    assert run(add_job(model, first)).status == "succeeded"
    assert run(add_job(model, [["recall", "gpu", str(said)]])).status == "succeeded"
    assert said.read_text().split() == ["None", "one", "two", "two"]
    assert len(rows(StepResult)) == 1


def test_another_cause_recalls_nothing(model: Model, tmp_path: Path) -> None:
    said = tmp_path / "said"
    run(add_job(model, [["remember", "this gpu", "one"], ["recall", "that gpu", str(said)]]))
    assert said.read_text() == "None\n"


def test_a_job_without_cache_recalls_nothing_of_others(model: Model, tmp_path: Path) -> None:
    said = tmp_path / "said"
    run(add_job(model, [["remember", "gpu", "one"]]))
    run(add_job(model, [["recall", "gpu", str(said)]], no_cache=True))
    assert said.read_text() == "None\n"


def test_another_project_recalls_nothing(model: Model, tmp_path: Path) -> None:
    said, other = tmp_path / "said", new_id("prj")
    run(add_job(model, [["remember", "gpu", "one"]]))
    job = add_job(model, [["recall", "gpu", str(said)]])
    with transaction() as session:
        session.add(Project(id=other, name="another"))
        session.flush()
        session.execute(update(Model).where(Model.id == model.id).values(project_id=other))
        session.execute(update(Job).where(Job.id == job.id).values(project_id=other))
    assert run(job).status == "succeeded"
    assert said.read_text() == "None\n"


def test_another_attempt_goes_on_from_the_last_checkpoint(model: Model, tmp_path: Path) -> None:
    said, key = tmp_path / "said", "a" * 64
    script = [
        [
            "once",
            str(tmp_path / "died"),
            [["checkpoint", key, "one"], ["checkpoint", key, "two"], ["die", 9]],
        ],
        ["go_on", key, str(said)],
        ["finish_step", key],
        ["go_on", key, str(said)],
    ]
    job = run(add_job(model, script))
    assert job.status == "queued"
    assert job.stalled_attempts == 0  # it got somewhere
    assert run(job).status == "succeeded"
    assert said.read_text().split() == ["two", "None"]
    assert rows(StepResult) == []


def test_what_is_forgotten_is_the_projects_own(model: Model, tmp_path: Path) -> None:
    key = "b" * 64
    run(add_job(model, [["checkpoint", key, "one"]]))
    with transaction() as session:
        session.add(Project(id=(other := new_id("prj")), name="another"))
        session.flush()
        session.execute(update(StepResult).values(project_id=other))
    assert run(add_job(model, [["checkpoint", key, "mine"], ["finish_step", key]])).status == "succeeded"
    (kept,) = rows(StepResult)
    assert kept.project_id == other
