"""The supervisor signs the manifest of its child's own job, and no other."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings, get_settings
from app.jobs.tables import Job
from app.models.tables import Model
from app.signing import keys
from app.signing.signatures import verify
from tests.workers.conftest import add_job, problem_code, run

DONE = ["artifacts", "an engine"]


def to_its_end(job: Job) -> Job:
    """Every attempt that the job gets."""
    for _ in range(get_settings().max_attempts):
        job = run(job)
    return job


def test_a_childs_manifest_is_signed(quick_sqlite: Settings, model: Model, tmp_path: Path) -> None:
    key = keys.create(quick_sqlite.signing_path)
    job = run(add_job(model, [["sign", str(tmp_path / "said"), {}], DONE]))
    assert job.status == "succeeded", job.problem
    said = json.loads((tmp_path / "said").read_text())
    assert verify(said["manifest"].encode(), said["signature"].encode(), [key.public]).trusted


def test_without_a_key_nothing_is_signed(quick_sqlite: Settings, model: Model, tmp_path: Path) -> None:
    assert run(add_job(model, [["sign", str(tmp_path / "said"), {}], DONE])).status == "succeeded"
    assert json.loads((tmp_path / "said").read_text())["signature"] is None


@pytest.mark.parametrize(
    "changes", [{"job": "job_of_another"}, {"model": {"digest": "0" * 64}}, {"model": None}], ids=str
)
def test_a_manifest_of_something_else_ends_the_child(
    quick_sqlite: Settings, model: Model, tmp_path: Path, changes: dict[str, Any]
) -> None:
    keys.create(quick_sqlite.signing_path)
    job = to_its_end(add_job(model, [["sign", str(tmp_path / "said"), changes], DONE]))
    assert (job.status, problem_code(job)) == ("failed", "crashed")
    assert not (tmp_path / "said").exists()


def test_a_key_that_cannot_be_read_is_told(quick_sqlite: Settings, model: Model, tmp_path: Path) -> None:
    quick_sqlite.signing_path.mkdir(parents=True)
    (quick_sqlite.signing_path / "a.pem").write_text("nonsense")
    job = to_its_end(add_job(model, [["sign", str(tmp_path / "said"), {}], DONE]))
    assert job.problem is not None
    assert "a.pem cannot be read" in job.problem["detail"]
