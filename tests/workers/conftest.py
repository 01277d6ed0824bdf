"""Jobs without an API in front: rows, blobs, and a child that does as it is told."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.auth.tables import DEFAULT_PROJECT
from app.config import Settings, get_settings
from app.db import transaction
from app.events.tables import Event
from app.ids import new_id
from app.jobs.tables import Job
from app.models.tables import Model
from app.storage import get_storage
from tests.conftest import forget_process_state
from workers import running, supervisor

FAKE_CHILD = (sys.executable, str(Path(__file__).with_name("fake_child.py")))
HANG: list[Any] = ["sleep", 600]


@pytest.fixture
def quick(burnish: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Both databases; short leases."""
    return quicken(monkeypatch)


@pytest.fixture
def quick_sqlite(burnish_sqlite: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """SQLite; short leases."""
    return quicken(monkeypatch)


@pytest.fixture
def model(quick_sqlite: Settings, tmp_path: Path) -> Model:
    return add_model(tmp_path)


@pytest.fixture(autouse=True)
def not_stopping() -> Iterator[None]:
    """Whatever a test said of shutting down."""
    yield
    running.stopping.clear()


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Change settings in the middle of a test."""

    def change(**values: Any) -> Settings:
        for name, value in values.items():
            monkeypatch.setenv(f"BURNISH_{name.upper()}", str(value))
        get_settings.cache_clear()
        return get_settings()

    return change


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], Path]:
    """`smi(printed)`: put a `nvidia-smi` on the path that prints these lines, by the first field asked for."""

    def put(printed: dict[str, str]) -> Path:
        script = tmp_path / "nvidia-smi"
        cases = "\n".join(
            f'*--query-gpu={field},*) printf "%s\\n" "{lines}" ;;' for field, lines in printed.items()
        )
        script.write_text(f'#!/bin/sh\necho "$*" > "{tmp_path}/asked"\ncase "$*" in\n{cases}\nesac\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return tmp_path / "asked"

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return put


def quicken(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Short leases, heartbeats and sweeps, for this process and those that it starts."""
    for name, value in {
        "LEASE_SECONDS": "3",
        "HEARTBEAT_SECONDS": "0.5",
        "SWEEP_SECONDS": "0.5",
        "RESEND_SECONDS": "1",
        "LOG_LEVEL": "INFO",
    }.items():
        monkeypatch.setenv(f"BURNISH_{name}", value)
    forget_process_state()
    return get_settings()


def add_model(folder: Path) -> Model:
    """A model row, ready, over one stored file."""
    root = folder / new_id("tree")
    root.mkdir(parents=True)
    (root / "model.onnx").write_bytes(b"not opened by these tests")
    blob = get_storage().put_tree(root)
    with transaction() as session:
        model = Model(
            id=new_id("mdl"),
            project_id=DEFAULT_PROJECT,
            name="a model",
            filename="model.onnx",
            status="ready",
            format="onnx",
            upload_digest=blob.digest,
            size_bytes=blob.size_bytes,
            digest=blob.digest,
            declared={},
            signature={"inputs": [], "outputs": []},
            facts={"entry": "model.onnx"},
        )
        session.add(model)
    return model


def add_job(model: Model, script: list[Any] | None = None, **values: Any) -> Job:
    """A queued job; `script` is what the fake child does (`fake_child.py`)."""
    limits = {"pending_seconds": 3600, "running_seconds": values.pop("running_seconds", 3600)}
    options = {"no_cache": values.pop("no_cache", False)}
    job = Job(
        id=new_id("job"),
        project_id=DEFAULT_PROJECT,
        kind="optimize",
        labels={},
        status="queued",
        progress={},
        request={
            "recipe": {"schema": 1, "passes": [], "script": script or []},
            "targets": [{"runtime": "onnxruntime-cpu", "params": {}}],
            "evaluation": None,
            "budget": None,
            "options": options,
            "limits": limits,
        },
        subject=model.id,
        subject_digest=model.digest,
        datasets=[],
        queue="runtime.onnxruntime-cpu",
        **{"pending_until": datetime.now(UTC) + timedelta(hours=1), **values},
    )
    with transaction() as session:
        session.add(job)
    return job


def read_job(job_id: str) -> Job:
    """The row as it is now."""
    with transaction(readonly=True) as session:
        job = session.get_one(Job, job_id)
        session.expunge(job)
    return job


def event_kinds(subject_id: str) -> list[str]:
    """What happened, as `status:running`, `step`, …, in order."""
    with transaction(readonly=True) as session:
        rows = session.scalars(select(Event).where(Event.subject_id == subject_id).order_by(Event.seq))
        return [f"status:{row.data['status']}" if row.type == "status" else row.type for row in rows]


def problem_code(job: Job) -> str | None:
    """The code of a job's problem."""
    return None if job.problem is None else json.loads(json.dumps(job.problem))["code"]


def run(job: Job) -> Job:
    """One attempt, with the child that does as it is told."""
    supervisor.run(job.id, FAKE_CHILD)
    return read_job(job.id)


def rows(table: Any) -> list[Any]:
    with transaction() as session:
        return list(session.scalars(select(table)))
