"""Rows of an installation that has been used for a while."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import update

from app.auth.tables import DEFAULT_PROJECT, Project
from app.config import get_settings
from app.db import transaction
from app.ids import new_id
from app.jobs.tables import Job, StepResult
from app.storage import DiskStorage, get_storage
from tests.app.jobs.factories import make_model, sha


def path_of(digest: str) -> Path:
    storage = get_storage()
    assert isinstance(storage, DiskStorage)
    return storage.path(digest)


def age(*digests: str) -> None:
    """Make stored files look as if they were stored before the grace."""
    long_ago = time.time() - 2 * get_settings().gc_grace_seconds
    for digest in digests:
        os.utime(path_of(digest), (long_ago, long_ago))


def put_tree(folder: Path, **files: bytes) -> str:
    """Store a tree of files."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return get_storage().put_tree(folder).digest


def days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def add_step(tree: str, key: str | None = None, *, days: float = 0, **columns: Any) -> None:
    """A stored step that was used last so many days ago."""
    values = {
        "project_id": DEFAULT_PROJECT,
        "name": "pass:simplify",
        "size_bytes": 7,
        "facts": {},
        "seconds": 1.0,
        "last_used_at": days_ago(days),
    }
    with transaction() as session:
        session.add(StepResult(key=key or sha(new_id("key")), digest=tree, **{**values, **columns}))


def add_job(
    subject: str | None = None, *, days: float | None = None, status: str = "succeeded", **columns: Any
) -> str:
    """A job that began and, unless `days` is None, ended so many days ago."""
    id_ = new_id("job")
    ended = None if days is None else days_ago(days)
    values: dict[str, Any] = {
        "project_id": DEFAULT_PROJECT,
        "kind": "optimize",
        "labels": {},
        "status": "running" if days is None else status,
        "progress": {},
        "request": {},
        "subject": subject or make_model(),
        "subject_digest": "0" * 64,
        "datasets": [],
        "queue": "runtime.onnxruntime-cpu",
        "pending_until": days_ago(-1),
        "started_at": days_ago(1) if ended is None else ended,
        "finished_at": ended,
        "created_at": datetime.now(UTC) if ended is None else ended,
    }
    with transaction() as session:
        session.add(Job(id=id_, **{**values, **columns}))
    return id_


def keep(project: str = DEFAULT_PROJECT, **limits: int) -> None:
    """Set what a project keeps."""
    with transaction() as session:
        session.execute(update(Project).where(Project.id == project).values(**limits))


@contextmanager
def settings(monkeypatch: Any, **values: Any) -> Iterator[None]:
    """Settings of this process, for a while."""
    with monkeypatch.context() as patch:
        for name, value in values.items():
            patch.setenv(f"BURNISH_{name.upper()}", str(value))
        get_settings.cache_clear()
        yield
    get_settings.cache_clear()
