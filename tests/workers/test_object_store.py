"""Workers whose store is a bucket: what they lay out and put there, and what they do while it is away."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from app.artifacts.tables import Artifact
from app.config import Settings, get_settings
from app.db import transaction
from app.ids import new_id
from app.models.tables import Model
from app.storage import get_storage
from app.storage import s3 as s3_module
from tests.services import free_port
from tests.workers.conftest import FAKE_CHILD, add_job, add_model, quicken, read_job
from workers import inspection, supervisor


@pytest.fixture
def over_s3(s3: str, burnish_sqlite: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return quicken(monkeypatch)


@contextmanager
def store_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("BURNISH_S3_ENDPOINT", f"http://127.0.0.1:{free_port()}")
        patch.setattr(s3_module, "ATTEMPTS", 1)
        forget_store()
        yield
    forget_store()


def forget_store() -> None:
    get_settings.cache_clear()
    get_storage.cache_clear()


def test_a_job_waits_for_a_store_that_is_away(
    over_s3: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add_job(add_model(tmp_path), [["step", "one", "1" * 64, str(tmp_path / "one")], ["artifacts", "x"]])
    with store_away(monkeypatch):
        supervisor.run(job.id, FAKE_CHILD)
    assert (read_job(job.id).status, read_job(job.id).attempt) == ("queued", 1)
    supervisor.run(job.id, FAKE_CHILD)
    assert (read_job(job.id).status, read_job(job.id).problem) == ("succeeded", None)
    with transaction(readonly=True) as session:
        (digest,) = session.scalars(select(Artifact.digest))
    assert b"".join(get_storage().open(digest)) == b"x"
    again = add_job(add_model(tmp_path), [["step", "one", "1" * 64, str(tmp_path / "one")]])
    supervisor.run(again.id, FAKE_CHILD)
    assert read_job(again.id).status == "succeeded"
    assert len((tmp_path / "one").read_text().splitlines()) == 1  # the step came out of the bucket


def test_a_job_whose_store_stays_away_fails_with_the_reason(
    over_s3: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = add_job(add_model(tmp_path))
    with store_away(monkeypatch):
        for _ in range(over_s3.max_attempts):
            supervisor.run(job.id, FAKE_CHILD)
    ended = read_job(job.id)
    assert ended.status == "failed"
    assert ended.problem is not None
    assert (ended.problem["code"], ended.problem["retryable"]) == ("unavailable", True)


def test_an_upload_is_not_rejected_for_a_store_that_is_away(
    over_s3: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"root": "tree", "format": "onnx", "signature": {"inputs": []}, "facts": {"entry": "m"}}
    blob = get_storage().put([b"bytes of a model"])
    model = Model(
        id=new_id("mdl"),
        project_id="prj_default",
        name="a model",
        filename="model.onnx",
        status="inspecting",
        upload_digest=blob.digest,
        size_bytes=blob.size_bytes,
        declared={"script": [["tree"], ["result", found]]},
    )
    with transaction() as session:
        session.add(model)

    def status() -> str:
        with transaction(readonly=True) as session:
            return session.get_one(Model, model.id).status

    with store_away(monkeypatch):
        inspection.inspect(model.id, FAKE_CHILD)
    assert status() == "inspecting"
    inspection.inspect(model.id, FAKE_CHILD)
    assert status() == "ready"
