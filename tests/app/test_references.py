"""`burnish gc`: what rows refer to stays, what is young stays, the rest goes."""

import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.auth.tables import DEFAULT_PROJECT
from app.cli import app
from app.config import Settings, get_settings
from app.db import transaction
from app.jobs.tables import StepResult
from app.references import collect
from app.storage import get_storage


def age(digest: str) -> None:
    long_ago = time.time() - 2 * get_settings().gc_grace_seconds
    os.utime(get_storage().path(digest), (long_ago, long_ago))


def test_only_old_files_without_a_row_go(burnish: Settings, tmp_path: Path) -> None:
    storage = get_storage()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "model.onnx").write_bytes(b"weights")
    tree = storage.put_tree(tmp_path / "tree").digest
    orphan, young = storage.put([b"orphan"]).digest, storage.put([b"young"]).digest
    kept = {tree, *(entry.digest for entry in storage.tree(tree))}
    with transaction() as session:
        session.add(
            StepResult(
                project_id=DEFAULT_PROJECT, key="0" * 64, name="pass:simplify", digest=tree, size_bytes=7, facts={}, seconds=1.0
            )
        )  # fmt: skip
    for digest in {orphan, *kept}:
        age(digest)
    assert collect() == (1, len(b"orphan"))
    assert set(storage.digests()) == {young, *kept}
    assert collect() == (0, 0)


def test_bytes_that_are_stored_again_are_young(burnish_sqlite: Settings) -> None:
    digest = get_storage().put([b"again"]).digest
    age(digest)
    get_storage().put([b"again"])
    assert collect() == (0, 0)
    age(digest)
    answer = CliRunner().invoke(app, ["gc", "--json"])
    assert answer.exit_code == 0
    assert '"files": 1' in answer.stdout
    assert not get_storage().exists(digest)


def test_the_grace_is_a_setting(burnish_sqlite: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    get_storage().put([b"new"])
    assert collect() == (0, 0)
    monkeypatch.setenv("BURNISH_GC_GRACE_SECONDS", "0")
    get_settings.cache_clear()
    assert collect() == (1, 3)
